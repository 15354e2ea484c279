"""Stores whose documents all agree, and lie: records, manifests, lists, mentors."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.store.chunks import crc32c
from tests.hostile.forging import (
    ARRAY,
    FEATURES,
    GROUP,
    INDEX,
    RECORD,
    ROOT,
    Make,
    agree,
    attributes,
    edit,
    path_of,
    put,
    read,
    rename,
    resealed,
    write,
)  # fmt: skip

CASES: dict[str, Make] = {}


def case(name: str) -> Callable[[Make], Make]:
    """A hostile store of that name."""

    def add(make: Make) -> Make:
        assert name not in CASES, name
        CASES[name] = make
        return make

    return add


# Commit records and their index.
@case("a record of a view far away")
def _far_view(root: Path, outside: Path) -> None:
    path = path_of(root, RECORD)
    edit(path, lambda record: record.update(view=2**40))
    rename(path)


@case("records without end, all of one chunk")
def _many_records(root: Path, outside: Path) -> None:
    path = path_of(root, RECORD)
    for number in range(2000):
        (path.parent / f"000001.000000.{number:08x}.json").write_bytes(path.read_bytes())


@case("records of 2,000 chunks that are not there")
def _absent_chunks(root: Path, outside: Path) -> None:
    path = path_of(root, RECORD)
    record = read(path)
    for number in range(2000):
        record["view"] = 10 + number
        write(path.parent / f"{record['view']:06d}.000000.{record['crc32c']}.json", record)


@case("error sums that overflow when added")
def _overflow(root: Path, outside: Path) -> None:
    for path in root.glob("mentors/r8/logits/commits/*.json"):
        edit(path, lambda record: record.update(error_sums={"measured_rows": 1e-300, "a": 1e308}))


@case("error sums of 100,000 names")
def _many_sums(root: Path, outside: Path) -> None:
    sums = {f"\x1b[{n}m": 1.0 for n in range(1000)}
    edit(path_of(root, RECORD), lambda record: record.update(error_sums=sums))


@case("more right than rows")
def _too_right(root: Path, outside: Path) -> None:
    for path in root.glob("mentors/*/logits/commits/*.json"):
        edit(path, lambda record: record.update(correct=2**61))


@case("an index of a million records")
def _large_index(root: Path, outside: Path) -> None:
    path = root / INDEX
    name, record = next(iter(read(path)["records"].items()))
    entry = json.dumps(record)
    text = ",".join(f'"{n:06d}.000000.{name[14:]}": {entry}' for n in range(1_000_000 // 20))
    path.write_bytes(resealed(f'{{"records": {{{text}}}, "seal": "{"0" * 64}"}}'.encode()))


@case("an index with lies")
def _lying_index(root: Path, outside: Path) -> None:
    def lie(document: Any) -> None:
        for record in document["records"].values():
            record.update(bytes=2**61, rows=2**61)

    edit(root / INDEX, lie)


@case("an index of chunks that never were")
def _index_of_others(root: Path, outside: Path) -> None:
    def add(document: Any) -> None:
        for name, record in list(document["records"].items()):
            far = {**record, "view": 2**61}
            document["records"][f"{2**61}{name[6:]}"] = far

    edit(root / INDEX, add)


# Manifests.
def _manifest(change: Callable[[Any], object], root: Path, outside: Path) -> None:
    attributes(root / ROOT, change)
    agree(root)


_MANIFESTS: dict[str, Callable[[Any], object]] = {
    "samples without end": lambda m: (m["dataset"].update(num_samples=2**39), m.update(block=1)),
    "a million replay proofs": lambda m: m.update(replay_proof=m["replay_proof"] * 2000),
    "a proof of another sample": lambda m: put(m, ("replay_proof", 0, "index"), 10**6),
    "a proof of a far view": lambda m: put(m, ("replay_proof", 0, "view"), 2**61),
    "a proof of view 2^32": lambda m: put(m, ("replay_proof", 0, "view"), 2**32),
    "a recipe nobody knows": lambda m: m.update(recipe={"name": "trap:factory", "version": 1}),
    "a recipe without a name": lambda m: m["recipe"].pop("name"),
    "recipe none": lambda m: m.update(recipe={"name": "none", "version": 1, "exact": True}),
    "a huge crop": lambda m: m["recipe"].update(size=10**9),
    "a huge border": lambda m: m["recipe"].update(padding=10**12),
    "a large border": lambda m: m["recipe"].update(padding=20_000),
    "a border of 8.0": lambda m: m["recipe"].update(padding=1.0, size=8.0),
    "flip yes": lambda m: m["recipe"].update(flip="yes"),
    "a name of a MB": lambda m: m["dataset"].update(name="digits" * 200_000),
    "a table for the terminal": lambda m: m["dataset"].update(
        {"pixels_sha256": "0", "x": "y" * 2_000_000, **{str(n): n for n in range(50_000)}}
    ),
    "versions for the terminal": lambda m: m.update(
        written_by={"\x1b]0;title\x07": "\x1b[2J"},
        replay_proof=[{**m["replay_proof"][0], "sha256": "\x1b[31m"}],
    ),
    "shutil:rmtree": lambda m: m["dataset"].update(name="shutil:rmtree", split="folder"),
    "trap:factory": lambda m: m["dataset"].update(name="trap:factory"),
    "torchvision:trap": lambda m: m["dataset"].update(name="torchvision:trap"),
    "a split": lambda m: m["dataset"].update(split="test; rm -rf ~"),
    "a name with a comma": lambda m: m["dataset"].update(name="digits,$(touch ran)`touch ran`"),
    "classes without end": lambda m: m["dataset"].update(num_classes=2**24),
    "lists of others": lambda m: m["dataset"].update(index_sha256="0" * 64),
}
for _name, _edit in _MANIFESTS.items():
    CASES[f"manifest: {_name}"] = partial(_manifest, _edit)


def _list(name: str, values: list[int], root: Path, outside: Path) -> None:
    """Another index or labels, with right checksums and metadata all over."""
    from kdcache.canonical import array_sha256
    from kdcache.store.zarr_metadata import list_metadata

    array = np.array(values, dtype="<i8")
    content = array.tobytes()
    (root / name / "c/0").write_bytes(content + struct.pack("<I", crc32c(content)))
    write(root / name / "zarr.json", list_metadata(len(array), {"seal": "0" * 64}))
    attributes(root / ROOT, lambda m: m["dataset"].update({f"{name}_sha256": array_sha256(array)}))
    agree(root)


_LISTS: dict[str, tuple[str, list[int]]] = {
    "negative samples": ("index", [-5, *range(1, 40)]),
    "huge samples": ("index", [*range(39), 2**62]),
    "samples in disorder": ("index", [1, 0, *range(2, 40)]),
    "samples twice": ("index", [0, 0, *range(2, 40)]),
    "fewer samples": ("index", [0, 1]),
    "negative labels": ("labels", [-1] * 40),
    "labels out of range": ("labels", [10] * 40),
    "huge labels": ("labels", [2**62] * 40),
}
for _name, (_list_name, _values) in _LISTS.items():
    CASES[f"lists: {_name}"] = partial(_list, _list_name, _values)


# Mentors.
def _renamed(name: str, folder: str, root: Path, outside: Path) -> None:
    """Mentor r8 under another name, in a folder of that name."""
    (root / "mentors/r8").rename(root / "mentors" / folder)
    attributes(root / "mentors" / folder / "zarr.json", lambda mentor: mentor.update(name=name))
    agree(root)


for _mentor in ("os:abort", "trap:factory", "wrn-9994-999", "timm:trap", "torchvision:resnet50",
                "r9", "-x", "a" * 200):  # fmt: skip
    CASES[f"mentor {_mentor[:20]}"] = partial(_renamed, _mentor, _mentor.replace(":", "."))


def _mentor_change(change: Callable[[Any], object], root: Path, outside: Path) -> None:
    attributes(root / GROUP, change)
    agree(root)


_MENTORS: dict[str, Callable[[Any], object]] = {
    "a batch of 10^12": lambda m: m["run_shape"].update(batch=10**12),
    "a batch of 10^6": lambda m: m["run_shape"].update(batch=10**6),
    "a batch of 64.0": lambda m: m["run_shape"].update(batch=64.0),
    "a batch in words": lambda m: m["run_shape"].update(batch="64"),
    "std 0": lambda m: m["preprocessing"].update(std=[0, 0, 0]),
    "std in words": lambda m: m["preprocessing"].update(std="abc"),
    "preprocessing for the terminal": lambda m: m.update(preprocessing={"\x1b[2J": "\x1b[2J"}),
    "a checkpoint for the terminal": lambda m: m.update(checkpoint_sha256="\x1b[2J" * 3),
    "a large architecture": lambda m: m.update(architecture="a\n" * 500_000),
}
for _name, _edit in _MENTORS.items():
    CASES[f"mentor: {_name}"] = partial(_mentor_change, _edit)


# Features: as wide as the store says.
def _wide(width: Any, agreeing: bool, root: Path, outside: Path) -> None:
    """A width, in the array alone or in its records too, of chunks that are as they were."""

    def widen(document: Any) -> None:
        document["shape"][2] = width
        document["chunk_grid"]["configuration"]["chunk_shape"][2] = width

    edit(root / FEATURES, widen)
    if agreeing:
        (root / FEATURES).with_name("commits.json").unlink()
        for record in root.glob("mentors/r8/features/commits/*.json"):
            edit(record, lambda found: found.update(bytes=20 * 2 * width))


for _width in (0, -1, 1, 63, 2**16, 2**16 + 1, 2**31, 2**40, 2**62, 64.0, True, None, "64"):
    CASES[f"features: {_width} a row"] = partial(_wide, _width, False)
    if type(_width) is int and 0 < _width < 2**50:
        CASES[f"features: {_width} a row, and in the records"] = partial(_wide, _width, True)


def _features(change: Callable[[Any], object], root: Path, outside: Path) -> None:
    edit(root / FEATURES, change)
    agree(root)


_FEATURES: dict[str, Callable[[Any], object]] = {
    "views without end": lambda d: put(d, ("shape", 0), 2**31),
    "no row": lambda d: d["shape"].pop(),
    "rows of rows": lambda d: d["shape"].append(64),
    "no shape": lambda d: d.update(shape=[]),
    "a width of a MB": lambda d: put(d, ("shape", 2), "6" * 1_000_000),
    "in an encoding of logits": lambda d: put(
        d, ("attributes", "kdcache", "encoder", "name"), "sqrt8-zstd"
    ),
    "said to be logits": lambda d: put(d, ("attributes", "kdcache", "kind"), "logits"),
}
for _name, _edit in _FEATURES.items():
    CASES[f"features: {_name}"] = partial(_features, _edit)


@case("features: of another width, sound all over")
def _other_width(root: Path, outside: Path) -> None:
    _wide(32, False, root, outside)
    folder = (root / FEATURES).parent
    (folder / "commits.json").unlink()
    for path in list(folder.glob("commits/*.json")):
        record = read(path)
        chunk = folder / "c" / str(record["view"]) / str(record["block"]) / "0"
        payload = chunk.read_bytes()[: 20 * 2 * 32]
        chunk.write_bytes(payload + struct.pack("<I", crc32c(payload)))
        record.update(bytes=len(payload), crc32c=f"{crc32c(payload):08x}")
        record["sha256"] = hashlib.sha256(payload).hexdigest()
        write(path, record)
        rename(path)


@case("features: logits in their place")
def _logits_as_features(root: Path, outside: Path) -> None:
    shutil.rmtree(root / "mentors/r8/features")
    shutil.copytree(root / "mentors/r8/logits", root / "mentors/r8/features")


@case("features: a link to a folder outside")
def _linked_features(root: Path, outside: Path) -> None:
    shutil.rmtree(root / "mentors/r8/features")
    (root / "mentors/r8/features").symlink_to(outside / "folder")


@case("features: of a mentor without logits")
def _no_logits(root: Path, outside: Path) -> None:
    shutil.rmtree(root / "mentors/r8/logits")


@case("logsumexp: without end")
def _endless_sums(root: Path, outside: Path) -> None:
    edit(
        root / "mentors/r8/logsumexp/zarr.json", lambda document: put(document, ("shape", 0), 2**31)
    )
    agree(root)


@case("mentor: a crowd of folders")
def _crowd(root: Path, outside: Path) -> None:
    for number in range(300):
        (root / "mentors" / f"m{number}").mkdir()


@case("mentor: views without end, nothing committed")
def _endless(root: Path, outside: Path) -> None:
    edit(root / ARRAY, lambda document: put(document, ("shape", 0), 2**31))
    for path in root.glob("mentors/r8/logits/commits/*.json"):
        path.unlink()
    (root / INDEX).unlink()


@case("mentor: a damaged array, and a record of view 2^40")
def _damaged_far(root: Path, outside: Path) -> None:
    _far_view(root, outside)
    (root / ARRAY).unlink()
    (root / INDEX).unlink()


@case("leftovers: a hidden link to a folder")
def _leftover(root: Path, outside: Path) -> None:
    (root / ".x.tmp").symlink_to(outside / "secret")
    (root / "mentors" / ".y.tmp").symlink_to(outside / "folder")
    (outside / "folder" / ".z.tmp").write_text("stays")
