"""Hostile stores by name: each a good store (`good.make_good`) changed in one way, and sealed."""

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.store.chunks import crc32c
from tests.hostile.forging import agree, attributes, edit, put, read, resealed, write

Make = Callable[[Path, Path], object]  # (a copy of the good store, a folder outside of it)

CASES: dict[str, Make] = {}
THOROUGH: set[str] = set()  # every value in every place: tried by the campaign

ROOT = "zarr.json"
GROUP = "mentors/r8/zarr.json"
ARRAY = "mentors/r8/logits/zarr.json"
RECORD = "mentors/r8/logits/commits/000001.000000.*.json"
INDEX = "mentors/r8/logits/commits.json"
CHUNK = "mentors/r8/logits/c/1/0/0"
PACKED = "mentors/r14/logits/c/1/0/0"

JUNK: dict[str, Any] = {
    "2^31": 2**31, "2^40": 2**40, "2^62": 2**62, "2^64": 2**64, "-1": -1, "0": 0, "1": 1,
    "1.5": 1.5, "1e308": 1e308, "8.0": 8.0, "true": True, "string": "7", "null": None, "[]": [],
    "{}": {}, "nested": {"a": [{"b": [1, 2]}]}, "nan": float("nan"), "escape": "\x1b[2J\x07\u202e",
    "newline": "a\nb", "nul": "a\0b", "long": "a" * 100_000, "up": "../../outside/folder",
    "absolute": "/etc/passwd", "factory": "trap:factory", "abort": "os:abort", "option": "--help",
    "list": [1, "a", None], "many": [0] * 100_000, "surrogate": "\ud800",
}  # fmt: skip


def case(name: str) -> Callable[[Make], Make]:
    """A hostile store of that name."""

    def add(make: Make) -> Make:
        assert name not in CASES, name
        CASES[name] = make
        return make

    return add


def _path(root: Path, pattern: str) -> Path:
    return next(iter(sorted(root.glob(pattern)))) if "*" in pattern else root / pattern


def _set(pattern: str, at: tuple[str | int, ...], value: Any, root: Path, outside: Path) -> None:
    path = _path(root, pattern)
    if "/commits/" in str(path) or path.name == "commits.json":
        edit(path, lambda document: put(document, at, value))
        _rename(path)
    elif pattern == ARRAY and at[0] != "encoder":
        edit(path, lambda document: put(document, at, value))
    else:
        attributes(path, lambda found: put(found, at, value))
        if at[0] != "fingerprint":
            agree(root)


def _rename(path: Path) -> None:
    """A record under the name that its content asks for, where that is a name."""
    record = read(path)
    view, block, crc = (record.get(key) for key in ("view", "block", "crc32c"))
    numbers = type(view) is int and type(block) is int
    if numbers and isinstance(crc, str) and crc.isalnum() and len(crc) == 8:
        path.rename(path.with_name(f"{view:06d}.{block:06d}.{crc}.json"))


PLACES: dict[str, list[tuple[str | int, ...]]] = {
    ROOT: [
        ("format",), ("fingerprint",), ("dataset",), ("dataset", "name"), ("dataset", "split"),
        ("dataset", "num_samples"), ("dataset", "num_classes"), ("dataset", "image_shape"),
        ("dataset", "index_sha256"), ("dataset", "another"), ("recipe",), ("recipe", "name"),
        ("recipe", "version"), ("recipe", "exact"), ("recipe", "size"), ("recipe", "padding"),
        ("recipe", "flip"), ("recipe", "another"), ("view_seed",), ("block",), ("replay_proof",),
        ("replay_proof", 3), ("replay_proof", 3, "view"), ("replay_proof", 3, "index"),
        ("replay_proof", 3, "sha256"), ("written_by",), ("written_by", "torch"), ("another",),
        ("seal",),
    ],
    GROUP: [
        ("fingerprint",), ("name",), ("architecture",), ("num_classes",), ("checkpoint_sha256",),
        ("preprocessing",), ("preprocessing", "mean"), ("preprocessing", "std"),
        ("preprocessing", "std", 0), ("run_shape",), ("run_shape", "batch"),
        ("run_shape", "precision"), ("run_shape", "memory_format"), ("run_shape", "another"),
    ],
    ARRAY: [
        ("shape",), ("shape", 0), ("shape", 1), ("shape", 2), ("data_type",), ("fill_value",),
        ("chunk_grid", "configuration", "chunk_shape"), ("codecs",), ("node_type",),
        ("attributes",), ("attributes", "kdcache"), ("dimension_names",), ("encoder",),
        ("attributes", "kdcache", "encoder"), ("attributes", "kdcache", "encoder", "name"),
        ("attributes", "kdcache", "encoder", "relative_error"), ("attributes", "kdcache", "kind"),
    ],
    RECORD: [
        ("view",), ("block",), ("rows",), ("bytes",), ("crc32c",), ("sha256",), ("identity",),
        ("correct",), ("error_sums",), ("error_sums", "kl_t1"), ("error_sums", "measured_rows"),
        ("another",),
    ],
}  # fmt: skip

for _pattern, _places in PLACES.items():
    for _at, (_name, _value) in product(_places, JUNK.items()):
        _case = f"{_pattern}: {'.'.join(map(str, _at))} = {_name}"
        CASES[_case] = partial(_set, _pattern, _at, _value)
        THOROUGH.add(_case)
_PICKED = ("2^40", "2^62", "-1", "1.5", "true", "null", "escape", "long", "factory", "many")
for _at, _name in product([("dataset", "name"), ("dataset", "num_samples"), ("recipe", "padding"),
                           ("view_seed",), ("block",), ("replay_proof", 3, "index"),
                           ("replay_proof", 3, "view")], _PICKED):  # fmt: skip
    THOROUGH.discard(f"{ROOT}: {'.'.join(map(str, _at))} = {_name}")
for _pattern, _at in ((GROUP, ("name",)), (GROUP, ("run_shape", "batch")), (ARRAY, ("shape", 0)),
                      (RECORD, ("bytes",)), (RECORD, ("view",)),
                      (GROUP, ("checkpoint_sha256",))):  # fmt: skip
    for _name in _PICKED:
        THOROUGH.discard(f"{_pattern}: {'.'.join(map(str, _at))} = {_name}")


# Whole documents.
_TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "deep lists": lambda text: _with_entry(text, b"[" * 100_000 + b"]" * 100_000),
    "deep objects": lambda text: _with_entry(text, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "deep, not closed": lambda text: text + b"[" * 100_000,
    "a huge integer": lambda text: _with_entry(text, b"9" * 100_000),
    "a huge float": lambda text: _with_entry(text, b"1e999999"),
    "NaN": lambda text: _with_entry(text, b"NaN"),
    "a key twice": lambda text: _with_entry(text, b'1, "zarr_format": 3, "view": 0'),
    "half a surrogate pair": lambda text: _with_entry(text, b'"\\ud800"'),
    "no UTF-8": lambda text: _with_entry(text, b'"\xff\xfe"'),
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "4 MB of lists": lambda text: _with_entry(text, b"[" + b"[]," * 1_350_000 + b"1]"),
    "4 MB of keys": lambda text: _with_entry(
        text, b"{" + b",".join(b'"%d":{}' % n for n in range(300_000)) + b"}"
    ),
    "4 MB of numbers": lambda text: _with_entry(text, b"[" + b"1," * 2_000_000 + b"1]"),
    "4 MB of names": lambda text: _with_entry(
        text, b"{" + b",".join(b'"%d":1' % n for n in range(350_000)) + b"}"
    ),
    "5 MB": lambda text: text + b" " * 5_000_000,
    "empty": lambda text: b"",
    "a list": lambda text: b'[{"seal": "' + b"0" * 64 + b'"}]',
    "a number": lambda text: b"7",
    "two seals": lambda text: _with_entry(text, b'{"seal": "' + b"1" * 64 + b'"}'),
    "ten thousand seals": lambda text: text + b'"seal": "' + b'0123456789abcdef"' * 10_000,
    "NULs": lambda text: b"\0" * 10_000,
    "a pickle": lambda text: b"cposix\nsystem\n(S'touch ran'\ntR.",
}


def _with_entry(text: bytes, value: bytes) -> bytes:
    start = text.index(b"{") + 1
    return text[:start] + b'"extra": ' + value + b"," + text[start:]


def _retext(pattern: str, change: Callable[[bytes], bytes], root: Path, outside: Path) -> None:
    path = _path(root, pattern)
    path.write_bytes(resealed(change(path.read_bytes())))


_DOCUMENTS = (ROOT, GROUP, ARRAY, RECORD, INDEX, "index/zarr.json", "mentors/zarr.json")
for _pattern, (_name, _change) in product(_DOCUMENTS, _TEXTS.items()):
    CASES[f"{_pattern}: {_name}"] = partial(_retext, _pattern, _change)
    if _pattern not in (ROOT, RECORD):
        THOROUGH.add(f"{_pattern}: {_name}")


# What is no file, or leads elsewhere.
def _replace(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # a socket's address is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("a file")


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


_OTHERS: dict[str, Callable[[Path, Path], object]] = {
    "gone": lambda path, outside: None,
    "link to a secret": lambda path, outside: path.symlink_to(outside / "secret"),
    "link to a folder": lambda path, outside: path.symlink_to(outside / "folder"),
    "link to /dev/zero": lambda path, outside: path.symlink_to("/dev/zero"),
    "link to itself": lambda path, outside: path.symlink_to(path),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "not-there"),
    "FIFO": lambda path, outside: os.mkfifo(path),
    "socket": lambda path, outside: _socket(path),
    "folder": lambda path, outside: _folder(path),
    "file": lambda path, outside: path.write_bytes(b"x"),
    "sparse file": lambda path, outside: _sparse(path),
}
_PATHS = (
    *(ROOT, GROUP, ARRAY, RECORD, INDEX, CHUNK, PACKED, ".lock", ".writers", "index", "labels"),
    *("index/zarr.json", "index/c", "index/c/0", "index/.zarray", "index/.zattrs", "labels/c/0"),
    *("mentors", "mentors/zarr.json", "mentors/r8", "mentors/r8/logits"),
    *("mentors/r8/logits/c", "mentors/r8/logits/c/1", "mentors/r8/logits/c/1/0"),
    *("mentors/r8/logits/commits", "mentors/r99", "mentors/\x1b[2J", "mentors/\udcff", "."),
)


def _put_other(pattern: str, make: Callable[[Path, Path], object], root: Path, out: Path) -> None:
    path = _replace(_path(root, pattern))
    make(path, out)


for _pattern, (_name, _make) in product(_PATHS, _OTHERS.items()):
    if _pattern == "." and _name in ("link to a folder", "link to nothing"):
        continue  # the user named that link, so a new store is made where it leads
    CASES[f"{ascii(_pattern)[1:-1]} is: {_name}"] = partial(_put_other, _pattern, _make)


def _elsewhere(pattern: str, root: Path, outside: Path) -> None:
    """The folder itself moved out, and a link to it put there: everything inside is right."""
    path = _path(root, pattern)
    target = root.parent / "out" / "moved"
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    moved = outside / "folder" / "moved"
    shutil.rmtree(moved, ignore_errors=True)
    path.rename(moved)
    path.symlink_to(moved)


for _pattern in ("mentors", "mentors/r8", "mentors/r8/logits", "mentors/r8/logits/commits",
                 "mentors/r8/logits/c", "mentors/r8/logits/c/1", "index", "labels/c",
                 ROOT, RECORD, INDEX, CHUNK):  # fmt: skip
    CASES[f"{_pattern} lies elsewhere"] = partial(_elsewhere, _pattern)


# Chunks.
def _commit(mentor: str, payload: bytes, root: Path, outside: Path, *, view: int = 1) -> None:
    """Another payload as block 0 of a view of a mentor, with right checksums all over."""
    array = root / "mentors" / mentor / "logits"
    checksum = crc32c(payload)
    (array / f"c/{view}/0/0").write_bytes(payload + struct.pack("<I", checksum))
    path = _path(array, f"commits/{view:06d}.000000.*.json")
    edit(path, lambda r: r.update(crc32c=f"{checksum:08x}", bytes=len(payload)))
    (array / "commits.json").unlink()
    _rename(path)


def _zstd(raw: bytes) -> bytes:
    from numcodecs import zstd

    return bytes(zstd.compress(raw, 3))


def _frame(raw_bytes: int) -> bytes:
    """A frame that claims that many bytes and holds few."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", raw_bytes) + b"\x01\x00\x00"


RAW = 20 * 10
_PAYLOADS: dict[str, bytes] = {
    "a bomb of 64 MiB": _zstd(bytes(2**26)),
    "a frame that claims 2^62": _frame(2**62),
    "a frame that claims a chunk": _frame(RAW),
    "one byte short": _zstd(bytes(RAW - 1)),
    "one byte more": _zstd(bytes(RAW + 1)),
    "two frames": _zstd(bytes(RAW)) + _zstd(bytes(RAW)),
    "a frame and more": _zstd(bytes(RAW)) + b"more",
    "no frame": b"\x80\x04cposix\nsystem\n",
    "empty": b"",
    "level 255": _zstd(b"\xff" * RAW),
}
for _name, _payload in _PAYLOADS.items():
    CASES[f"zstd chunk: {_name}"] = partial(_commit, "r14", _payload)
CASES["chunk of NaN"] = partial(_commit, "r8", b"\xff\x7f" * RAW, view=0)
CASES["chunk of infinity"] = partial(_commit, "r8", b"\x00\x7c" * RAW)
CASES["chunk of another size"] = partial(_commit, "r8", bytes(2 * RAW + 2))


# Commit records and their index.
@case("a record of a view far away")
def _far_view(root: Path, outside: Path) -> None:
    _set(RECORD, ("view",), 2**40, root, outside)


@case("records without end, all of one chunk")
def _many_records(root: Path, outside: Path) -> None:
    path = _path(root, RECORD)
    for number in range(2000):
        (path.parent / f"000001.000000.{number:08x}.json").write_bytes(path.read_bytes())


@case("records of 2,000 chunks that are not there")
def _absent_chunks(root: Path, outside: Path) -> None:
    path = _path(root, RECORD)
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
    edit(_path(root, RECORD), lambda record: record.update(error_sums=sums))


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


QUICK = [name for name in CASES if name not in THOROUGH]
_TELLING = (
    *("manifest:", "mentor:", "mentor ", "lists:", "zstd", "chunk", "a record", "records", "error"),
    *("an index", "more right"),
)
_CHOSEN = {name for name in QUICK if name.startswith(_TELLING)}
FAST = [name for n, name in enumerate(QUICK) if name in _CHOSEN or n % 10 == 0]
