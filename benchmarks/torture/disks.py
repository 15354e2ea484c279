"""What a disk may hold after its power was cut: a model of files, folders and what was fsynced.

POSIX promises little. A file's bytes are safe once the file was fsynced, and a name in a folder
once the folder was; anything since then may be there or not, each change by itself. A rename is
one change: the old name or the new one, never neither.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from benchmarks.torture.faults import Operation

State = Mapping[str, bytes | None]  # a file's content by relative path; None: a folder


@dataclass(eq=False)
class File:
    """`durable`: its content when it was last fsynced."""

    content: bytes = b""
    durable: bytes = b""


@dataclass(eq=False)
class Folder:
    """`durable`: its entries when it was last fsynced; `pending`: the changes since, in order."""

    entries: dict[str, "Node"] = field(default_factory=dict)
    durable: dict[str, "Node"] = field(default_factory=dict)
    pending: list["Change"] = field(default_factory=list)

    def change(self, change: "Change") -> None:
        self.pending.append(change)
        change.make(self.entries)

    def fsync(self) -> None:
        self.durable, self.pending = dict(self.entries), []


Node = Union[File, Folder]  # noqa: UP007 - the classes refer to it before it exists


@dataclass(frozen=True)
class Change:
    """Of one folder's entries: a name that goes, a name that comes, or both (a rename)."""

    goes: str | None = None
    comes: str | None = None
    node: Node | None = None

    def make(self, entries: dict[str, Node]) -> None:
        if self.goes is not None:
            entries.pop(self.goes, None)
        if self.comes is not None and self.node is not None:
            entries[self.comes] = self.node


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one power cut leaves of what was not fsynced.

    `keeps`: whether it keeps a change of names; `content`: what it leaves in a file.
    """

    name: str
    keeps: Callable[[], bool]
    content: Callable[[File], bytes]


def _all(file: File) -> bytes:
    return file.content


def _fsynced(file: File) -> bytes:
    return file.durable


def _zeros(file: File) -> bytes:
    return file.content if file.content == file.durable else bytes(len(file.content))


def _half(file: File) -> bytes:
    clean = file.content == file.durable
    return file.content if clean else file.content[: len(file.content) // 2]


NO_CUT = Cut(name="no cut", keeps=lambda: True, content=_all)
WORST = Cut(name="nothing unsynced is there", keeps=lambda: False, content=_fsynced)
HARSH = (
    WORST,
    Cut(name="names without content", keeps=lambda: True, content=_fsynced),
    Cut(name="names with zeros", keeps=lambda: True, content=_zeros),
    Cut(name="names with half their content", keeps=lambda: True, content=_half),
)


def chance_cut(chance: random.Random) -> Cut:
    """Every change and every content by the toss of a coin."""
    return Cut(
        name="a part of it, by chance",
        keeps=lambda: chance.random() < 0.5,
        content=lambda file: chance.choice((_all, _fsynced, _zeros, _half))(file),
    )


class Disk:
    """The disk below the folder `base`, starting from what is there, which counts as durable."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = _durable(base)

    def apply(self, operation: Operation) -> None:
        """Follows one operation of a process."""
        folder, name = self._parent(operation.path), operation.path.name
        match operation.kind:
            case "create":
                if name not in folder.entries:
                    folder.change(Change(comes=name, node=File()))
            case "mkdir":
                folder.change(Change(comes=name, node=Folder()))
            case "unlink":
                folder.change(Change(goes=name))
            case "rename":
                assert operation.to is not None
                assert operation.to.parent == operation.path.parent
                node = folder.entries[name]
                folder.change(Change(goes=name, comes=operation.to.name, node=node))
            case "write":
                file = folder.entries[name]
                assert isinstance(file, File)
                file.content += operation.content
            case "fsync":
                node = self._node(operation.path)
                if isinstance(node, File):
                    node.durable = node.content
                else:
                    node.fsync()

    def after(self, cut: Cut) -> State:
        """What is there when the power is back."""
        return dict(_left(self._root, cut, ""))

    def _parent(self, path: Path) -> Folder:
        folder = self._node(path.parent) if path != self._base else Folder()
        assert isinstance(folder, Folder)
        return folder

    def _node(self, path: Path) -> Node:
        node: Node = self._root
        for part in path.relative_to(self._base).parts:
            assert isinstance(node, Folder)
            node = node.entries[part]
        return node


def _durable(folder: Path) -> Folder:
    entries: dict[str, Node] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            entries[path.name] = _durable(path)
        else:
            entries[path.name] = File(path.read_bytes(), path.read_bytes())
    return Folder(entries, dict(entries))


def _left(folder: Folder, cut: Cut, at: str) -> Iterator[tuple[str, bytes | None]]:
    entries = dict(folder.durable)
    for change in folder.pending:
        if cut.keeps():
            change.make(entries)
    for name, node in sorted(entries.items()):
        if isinstance(node, File):
            yield at + name, cut.content(node)
        else:
            yield at + name, None
            yield from _left(node, cut, f"{at}{name}/")


def write_state(state: State, base: Path) -> None:
    """Makes it real in an empty folder."""
    for path, content in state.items():  # a folder comes before what is in it
        if content is None:
            (base / path).mkdir()
        else:
            (base / path).write_bytes(content)
