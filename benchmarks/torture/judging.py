"""What a store says it holds, against what an undisturbed run makes."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.torture.tally import Tally
from benchmarks.torture.world import Key, Truth, decoded_rows, files_of
from kdcache.errors import KdcacheError, StoreError
from kdcache.store import open_store, verify_store

File = tuple[int, int]  # inode, time of its last change


@dataclass(kw_only=True)
class Findings:
    """What reading everything gave: chunks that decode as they must, wrong ones, refusals."""

    held: set[Key] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def read_everything(root: Path, truth: Truth) -> Findings:
    """Opens a store and decodes every chunk the undisturbed one has."""
    found = Findings()
    try:
        store = open_store(root)
    except StoreError as error:
        found.refused.append(str(error))
        return found
    for key, expected in truth.decoded.items():
        array, view, block = key
        try:
            index = store.index_N[store.manifest.block_rows(block)]
            decoded = decoded_rows(store, key)
            labels = store.labels_N[store.manifest.block_rows(block)]
            record = store.mentor(*array.split("/")).commits[view, block]
        except StoreError as error:
            found.refused.append(str(error))
            continue
        whole = np.array_equal(labels, truth.world.dataset.labels(index)) and np.array_equal(
            decoded, expected
        )
        if whole and record_path(array, record.file_name) in truth.files:
            found.held.add(key)
        else:
            found.wrong.append(f"mentor {array}, view {view}, block {block}")
    return found


def record_path(array: str, file_name: str) -> str:
    return f"mentors/{array}/commits/{file_name}"


def chunk_path(root: Path, key: Key) -> Path:
    """Where a chunk lies, by the format and not by our code."""
    array, view, block = key
    path = root / "mentors" / array / "c" / str(view) / str(block)
    return path if array.endswith("/logsumexp") else path / "0"


def committed(root: Path, truth: Truth) -> dict[Key, File]:
    """The chunks whose whole commit record is on disk, with the file that each then is."""
    found = {}
    for path in truth.files:
        if "/commits/" not in path or not (root / path).exists():
            continue
        if (root / path).read_bytes() == truth.files[path]:
            view, block, _, _ = (root / path).name.split(".")
            key = "/".join(path.split("/")[1:3]), int(view), int(block)
            found[key] = _file(chunk_path(root, key))
    return found


def _file(path: Path) -> File:
    """Tells a file from another one that took its place."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def damage_found(root: Path) -> list[str]:
    """What verifying a store lists, or why it is none."""
    try:
        return [str(damage) for damage in verify_store(root).damaged]
    except StoreError as error:
        return [str(error)]


@dataclass(kw_only=True)
class Look:
    """A disturbed store as it is found. `before`: what is committed, and in which file."""

    before: dict[Key, File]
    lost: set[Key]
    wrong: list[str]


def look(
    root: Path,
    truth: Truth,
    *,
    readable: bool = True,
    spoiled: Collection[Key] = (),
    finished: bool = False,
) -> Look:
    """What a disturbed store says now; the options are `judge`'s."""
    before = {key: file for key, file in committed(root, truth).items() if key not in spoiled}
    found = read_everything(root, truth)
    expected = truth.decoded.keys() if finished else before.keys()
    return Look(before=before, lost=expected - found.held if readable else set(), wrong=found.wrong)


def judge(
    root: Path,
    truth: Truth,
    tally: Tally,
    how: str,
    *,
    readable: bool = True,
    spoiled: Collection[Key] = (),
    finished: bool = False,
    rounds: int = 1,
) -> None:
    """What a disturbed store says; then it is finished and must be as if undisturbed.

    `readable`: nothing was damaged on purpose, so whatever is committed must be read at once.
    `spoiled`: chunks that were. `finished`: a precompute had returned, so that everything is there.
    `rounds`: how often it was disturbed.
    """
    looked = look(root, truth, readable=readable, spoiled=spoiled, finished=finished)
    problems = [f"committed and not read: {key}" for key in sorted(looked.lost)]
    try:
        truth.world.precompute(root)
    except (KdcacheError, OSError) as error:
        problems.append(f"finishing it failed: {type(error).__name__}: {error}")
    after = committed(root, truth)
    moved = {key for key, file in looked.before.items() if after.get(key) != file}
    problems += [f"committed and computed again: {key}" for key in sorted(moved)]
    unlike = unlike_undisturbed(root, truth)
    wrong = looked.wrong + read_everything(root, truth).wrong
    tally.rounds += rounds
    tally.lost += len(looked.lost | moved)
    tally.wrong += len(wrong)
    tally.healed += 0 if unlike else rounds
    tally.report(how, [*problems, *unlike, *(f"believed wrongly: {what}" for what in wrong)])


def unlike_undisturbed(root: Path, truth: Truth) -> list[str]:
    """In what a finished store differs from the undisturbed one."""
    ours, theirs = files_of(root), truth.files
    found = [f"{path} differs" for path in ours.keys() & theirs if ours[path] != theirs[path]]
    found += [f"{path} is missing" for path in theirs.keys() - ours]
    found += [f"{path} should not be there" for path in ours.keys() - theirs]
    found += [
        f"not held: {key}" for key in truth.decoded.keys() - read_everything(root, truth).held
    ]
    return sorted(found) + damage_found(root)
