"""Zip files, safetensors headers and paths made to mislead."""

import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdcache.checkpoints import file_sha256, read_metadata, read_state_dict
from kdcache.errors import CheckpointError
from tests.checkpoints.made import MIB, rezipped, safetensors_bytes, state, zipped
from tests.checkpoints.refusals import refused


def claiming(name: str) -> bytes:
    return rezipped(state(), lambda entries: entries.update({name: b"trace"}))


def with_directory(size: int) -> bytes:
    """A zip file's end that claims a directory of this size."""
    return b"PK\x03\x04" + bytes(100) + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, size, 0, 0)


def overlapping() -> bytes:
    """Two entries over one piece of data: more bytes than the file has."""
    data = bytearray(zipped({"a/data.pkl": bytes(4000), "b/data.pkl": bytes(10)}))
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 20 : directory + 28] = struct.pack("<II", 4000, 4000)
    data[directory + 42 : directory + 46] = struct.pack("<I", 0)
    return bytes(data)


def without(name: str) -> bytes:
    return rezipped(state(), lambda e: [e.pop(key) for key in list(e) if key.endswith(name)])


ZIPS: dict[str, tuple[bytes, str]] = {
    "bomb": (zipped({"a/data.pkl": bytes(10 * MIB)}, zipfile.ZIP_DEFLATED), "unpacks to more"),
    "deflated weights": (rezipped(state(), len, zipfile.ZIP_DEFLATED), "unpacks to more bytes"),
    "lzma": (zipped({"a/data.pkl": bytes(MIB)}, zipfile.ZIP_LZMA), "unpacks to more bytes"),
    "overlapping": (overlapping(), "unpacks to more bytes"),
    "upwards": (claiming("archive/../../trace"), "the odd entry 'archive/../../trace'"),
    "absolute": (claiming("/tmp/trace"), "the odd entry '/tmp/trace'"),
    "backslash": (claiming("..\\trace"), "the odd entry"),
    "second pickle": (claiming("other/data.pkl"), "has no data.pkl of its own"),
    "no pickle": (without("data.pkl"), "has no data.pkl of its own"),
    "no storage": (without("data/0"), "storage '0' claims 432 bytes and is not in the file"),
    "big endian": (
        rezipped(state(), lambda e: [e.update({k: b"big"}) for k in e if "byteorder" in k]),
        "written on a big-endian machine",
    ),
    "huge directory": (with_directory(2**31), "is not a whole PyTorch|directory has more than"),
    "no directory": (b"PK\x03\x04" + bytes(1000), "is not a whole PyTorch checkpoint"),
    "empty archive": (zipped({}), "has no data.pkl of its own"),
}

F32 = '{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "header of exabytes": (
        safetensors_bytes(b"{}", size=2**63),
        "claims 9,223,372,036,854,775,808",
    ),
    "header beyond the file": (safetensors_bytes(b"{}", size=100), "its header claims 100 bytes"),
    "large header": (safetensors_bytes(b" " * (5 * MIB)), "its header claims 5,242,880 bytes"),
    "seven bytes": (b"\x01" * 7, "its header claims|is not a whole"),
    "no object": (safetensors_bytes(b"[]"), "its header is no JSON object"),
    "deep": (safetensors_bytes(b"[" * 500_000), "nested more than 100 deep"),
    "deep metadata": (
        safetensors_bytes(b'{"__metadata__": {"a":' + b"[" * 200 + b"]" * 200 + b"}}"),
        "nested more than 100 deep",
    ),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "not UTF-8"),
    "NaN": (safetensors_bytes(b'{"w": NaN}'), "NaN, which is not JSON"),
    "one name twice": (
        safetensors_bytes((F32 + "," + F32[1:] + "}").encode(), bytes(16)),
        "the key 'w' twice",
    ),
    "digits": (
        safetensors_bytes(F32.replace("[4]", f"[{'9' * 30}]").encode() + b"}", bytes(16)),
        "more than 20 digits",
    ),
    "huge shape": (
        safetensors_bytes(F32.replace("[4]", f"[{2**60}]").encode() + b"}", bytes(16)),
        "is not a whole safetensors checkpoint",
    ),
    "huge shape of no bytes": (
        safetensors_bytes(F32.replace("[4]", f"[0, {2**62}, 16]").encode() + b"}", bytes(16)),
        "is not a whole safetensors checkpoint",
    ),
    "outside": (safetensors_bytes(F32.encode() + b"}", bytes(15)), "is not a whole safetensors"),
    "more than said": (safetensors_bytes(F32.encode() + b"}", bytes(17)), "is not a whole"),
    "unknown kind": (
        safetensors_bytes(F32.replace("F32", "X99").encode() + b"}", bytes(16)),
        "is not a whole safetensors checkpoint",
    ),
    "numbers as metadata": (
        safetensors_bytes(F32.encode() + b', "__metadata__": {"a": 1}}', bytes(16)),
        "does not map text to text",
    ),
    "metadata of no object": (
        safetensors_bytes(F32.encode() + b', "__metadata__": "a"}', bytes(16)),
        "does not map text to text",
    ),
    "no number": (
        safetensors_bytes(F32.encode() + b"}", struct.pack("<4f", 0, 0, float("nan"), 0)),
        "NaN or infinite",
    ),
}
HEADERS = {  # wrong in the header itself, which `read_metadata` reads too
    kind for kind, (_, message) in SAFETENSORS.items() if "whole" not in message
} - {"no number"}


@pytest.mark.parametrize("kind", ZIPS)
def test_zip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    refused(tmp_path, monkeypatch, ".pt", *ZIPS[kind])


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_safetensors_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data, message = SAFETENSORS[kind]
    path = refused(tmp_path, monkeypatch, ".safetensors", data, message)
    if kind in HEADERS:
        with pytest.raises(CheckpointError, match=message):
            read_metadata(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("read", [read_state_dict, read_metadata, file_sha256])
def test_no_regular_files(tmp_path: Path, suffix: str, read: Callable[[Path], object]) -> None:
    makers: dict[str, tuple[Callable[[Path], object], str]] = {
        "fifo": (os.mkfifo, "is not a regular file: it is a FIFO. Name a file."),
        "zero": (lambda p: p.symlink_to("/dev/zero"), "is not a regular file: it is a device"),
        "circle": (lambda p: p.symlink_to(p.name), "links in a circle"),
        "dangling": (lambda p: p.symlink_to("nothing"), "there is no checkpoint"),
    }
    started = time.monotonic()
    for name, (make, message) in makers.items():
        path = tmp_path / f"{name}{suffix}"
        make(path)
        with pytest.raises(CheckpointError, match=message):
            read(path)
    for path in (tmp_path / f"{'x' * 300}{suffix}", Path(f"a\0b{suffix}")):
        with pytest.raises(CheckpointError):
            read(path)
    assert time.monotonic() - started < 2


def test_a_link_to_a_checkpoint_is_a_checkpoint(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    (tmp_path / "b.pth").symlink_to("a.pth")
    assert list(read_state_dict(tmp_path / "b.pth")) == list(state())
