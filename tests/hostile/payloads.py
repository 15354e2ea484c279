"""Chunks with right checksums that are none, or that unpack to more than they should."""

import shutil
import struct
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from kdcache.store.chunks import crc32c
from tests.hostile.forging import ROOT, Make, agree, attributes, edit, path_of, read, rename, write

CASES: dict[str, Make] = {}


def commit(mentor: str, payload: bytes, root: Path, outside: Path, *, view: int = 1) -> None:
    """Another payload as block 0 of a view of a mentor, with right checksums all over."""
    array = root / "mentors" / mentor / "logits"
    checksum = crc32c(payload)
    (array / f"c/{view}/0/0").write_bytes(payload + struct.pack("<I", checksum))
    path = path_of(array, f"commits/{view:06d}.000000.*.json")
    edit(path, lambda r: r.update(crc32c=f"{checksum:08x}", bytes=len(payload)))
    (array / "commits.json").unlink()
    rename(path)


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
    CASES[f"zstd chunk: {_name}"] = partial(commit, "r14", _payload)
CASES["chunk of NaN"] = partial(commit, "r8", b"\xff\x7f" * RAW, view=0)
CASES["chunk of infinity"] = partial(commit, "r8", b"\x00\x7c" * RAW)
CASES["chunk of another size"] = partial(commit, "r8", bytes(2 * RAW + 2))


def _many_classes(noise: bytes, root: Path, outside: Path) -> None:
    """A million classes in all documents, and chunks of 20 MiB with next to nothing in them."""
    from kdcache.encode import LOGITS, find_encoder
    from kdcache.store.zarr_metadata import targets_metadata

    classes, array = 2**20, root / "mentors/r14/logits"
    shutil.rmtree(root / "mentors/r8")
    attributes(root / ROOT, lambda found: found["dataset"].update(num_classes=classes))
    stated = read(array / "zarr.json")["attributes"]["kdcache"]
    shape = (2, 40, classes)
    encoder = find_encoder("sqrt8-zstd")
    write(array / "zarr.json", targets_metadata(encoder, LOGITS, shape, 20, stated))
    payload = _zstd(bytes(20 * classes - len(noise)) + noise)
    for view, block in product(range(2), range(2)):
        checksum = crc32c(payload)
        (array / f"c/{view}/{block}/0").write_bytes(payload + struct.pack("<I", checksum))
        path = path_of(array, f"commits/{view:06d}.{block:06d}.*.json")
        record = {**read(path), "crc32c": f"{checksum:08x}", "bytes": len(payload)}
        write(path, record)
        rename(path)
    agree(root)


CASES["zstd chunk: more than a thousandfold"] = partial(_many_classes, b"")
CASES["zstd chunk: almost a thousandfold"] = partial(
    _many_classes, np.random.default_rng(0).bytes(25_000)
)
