"""Every kind of value in every place of every document, and documents that are none."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tests.hostile.forging import (
    ARRAY,
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
    rename,
    resealed,
)  # fmt: skip

CASES: dict[str, Make] = {}
THOROUGH: set[str] = set()  # tried in part by the tests, and by `trial` as a whole

JUNK: dict[str, Any] = {
    "2^31": 2**31, "2^40": 2**40, "2^62": 2**62, "2^64": 2**64, "-1": -1, "0": 0, "1": 1,
    "1.5": 1.5, "1e308": 1e308, "8.0": 8.0, "true": True, "string": "7", "null": None, "[]": [],
    "{}": {}, "nested": {"a": [{"b": [1, 2]}]}, "nan": float("nan"), "escape": "\x1b[2J\x07\u202e",
    "newline": "a\nb", "nul": "a\0b", "long": "a" * 100_000, "up": "../../outside/folder",
    "absolute": "/etc/passwd", "factory": "trap:factory", "abort": "os:abort", "option": "--help",
    "list": [1, "a", None], "many": [0] * 100_000, "surrogate": "\ud800",
}  # fmt: skip


def _set(pattern: str, at: tuple[str | int, ...], value: Any, root: Path, outside: Path) -> None:
    path = path_of(root, pattern)
    if "/commits/" in str(path) or path.name == "commits.json":
        edit(path, lambda document: put(document, at, value))
        rename(path)
    elif pattern == ARRAY and at[0] != "encoder":
        edit(path, lambda document: put(document, at, value))
    else:
        attributes(path, lambda found: put(found, at, value))
        if at[0] != "fingerprint":
            agree(root)


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
TEXTS: dict[str, Callable[[bytes], bytes]] = {
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
    path = path_of(root, pattern)
    path.write_bytes(resealed(change(path.read_bytes())))


_DOCUMENTS = (ROOT, GROUP, ARRAY, RECORD, INDEX, "index/zarr.json", "mentors/zarr.json")
for _pattern, (_name, _change) in product(_DOCUMENTS, TEXTS.items()):
    CASES[f"{_pattern}: {_name}"] = partial(_retext, _pattern, _change)
    if _pattern not in (ROOT, RECORD):
        THOROUGH.add(f"{_pattern}: {_name}")
