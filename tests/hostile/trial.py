"""Tries stores in this process, watched: `python -m tests.hostile.trial FOLDER GROUP..`.

Groups of `ways` into stores, or of `hub_ways` (hub-reading, ..) into hubs. Prints one JSON object a
store. A process of its own, since an audit hook stays for ever, memory is limited, and a store
might end the process.
"""

import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets  # noqa: F401 - loads libraries, which must not happen while watched

from tests.hostile.corpus import CASES
from tests.hostile.forging import Make
from tests.hostile.good import Good, make_good
from tests.hostile.good_hub import make_good_hub
from tests.hostile.hub_corpus import HUB_CASES
from tests.hostile.hub_ways import HUB_GROUPS
from tests.hostile.watch import Watch
from tests.hostile.ways import READING, USING, WRITING, Way, refuse_factories

GROUPS: dict[str, dict[str, Way]] = {"reading": READING, "using": USING, "writing": WRITING}
ALL_GROUPS = {**GROUPS, **{f"hub-{name}": ways for name, ways in HUB_GROUPS.items()}}


class Laboratory:
    """A good store, its data, and a watch; hostile stores are made and tried one by one.

    `hubs`: hubs instead. `template`: what is copied and changed.
    """

    def __init__(self, folder: Path, ways: Mapping[str, Way], *, hubs: bool = False) -> None:
        torch.set_num_threads(1)
        threading.stack_size(2**20)  # of resting ones too; a stack counts as asked for at once
        warnings.simplefilter("ignore")
        self.folder, self.ways = folder, dict(ways)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["KDCACHE_HOME"] = str(folder / "home")
        self.good: Good
        if hubs:
            hub = make_good_hub(folder)
            self.good, self.template = hub.good, hub.root
            self.reading = [folder / "home"]  # a hub that is read is not written to
        else:
            self.good = make_good(folder)
            self.template, self.reading = self.good.root, []
        self.hubs = hubs
        (folder / "data" / "cifar-100-python").mkdir(parents=True)  # not whole: never downloaded
        os.environ["KDCACHE_DATA"] = str(folder / "data")
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("TOKEN" * 20)
        (self.outside / "trap.py").write_text("open('ran', 'w')\nfactory = print\n")
        (self.outside / "folder").mkdir()
        os.chdir(self.outside)  # where a factory would be looked for first
        for name, way in self.ways.items():  # whatever is imported late is imported now
            assert not (refused := way(self._copy(), self.good, self._out())), (name, refused)
        refuse_factories()
        self.watch = Watch()
        self.watch.limit_memory()

    def try_store(self, make: Make) -> dict[str, Any]:
        """The faults found, and by which way the store was refused with which message."""
        faults: list[str] = []
        refused: dict[str, str] = {}
        root = self._copy()
        make(root, self.outside)
        before, size = _listing(self.outside), _bytes(root)
        for name, way in self.ways.items():
            out = self._out()
            with self.watch.watching(self._writable(name, root, out), size) as found:
                try:
                    message = way(root, self.good, out)
                    if message:
                        refused[name] = message
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TooLong":
                        raise
                    found.append(f"{type(error).__name__}: {str(error)[:300]}{_where(error)}")
            faults += [f"{name}: {fault}" for fault in found]
        if _listing(self.outside) != before:
            faults.append("something outside the store changed")
        return {"faults": faults, "refused": refused}

    def _writable(self, way: str, root: Path, out: Path) -> list[Path]:
        if not self.hubs:
            return [root, out]
        return [*self.reading, out, *([root] if way in HUB_GROUPS["writing"] else [])]

    def _copy(self) -> Path:
        root = self.folder / "store"
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        if root.is_dir() and not root.is_symlink():
            shutil.rmtree(root)
        else:
            root.unlink(missing_ok=True)
        shutil.copytree(self.template, root)
        return root

    def _out(self) -> Path:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out


def _where(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        lines.append(f"{file.name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f" at {' '.join(lines[-6:])}"


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    found = [(str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*")]
    return sorted(found)


def _bytes(root: Path) -> int:
    return sum(p.lstat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink())


def main(folder: str, *groups: str) -> None:
    """Tries the cases named on standard input."""
    names = sys.stdin.read().splitlines()
    ways = {name: way for group in groups for name, way in ALL_GROUPS[group].items()}
    hubs = all(group.startswith("hub-") for group in groups)
    cases = HUB_CASES if hubs else CASES
    laboratory = Laboratory(Path(folder), ways, hubs=hubs)
    print(json.dumps({"case": None}), flush=True)
    for name in names:
        print(json.dumps({"case": name, **laboratory.try_store(cases[name])}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
