"""torch.save's two containers, the zip file and the older stream, read by us from end to end.

Memory: once the storages that the weights name, each as large as its data in the file, and three
times the largest of them while it is read. A zip file's directory has at most 4 MiB (some 40,000
storages, 60 MiB of memory), as has a pickle.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from kdcache.checkpoints.described import DTYPES, Broken, Described, Refused, Storage
from kdcache.checkpoints.pickled import MOST_PICKLED, Pickled, unpickled

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MOST_DIRECTORY = 4 * 2**20  # bytes
_MOST_DIMENSIONS = 64  # torch's own limit
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the older stream

_Read = Callable[[Storage, int], bytes]


class Packed(Exception):
    """The zip file unpacks to more bytes than it has."""


class TorchFile:
    """What a file of torch.save holds: plain values, and descriptions of tensors.

    Reads from the file given, which stays open as long as this is used.

    Raises Refused, Packed, Broken, and what `zipfile` raises for a damaged archive.
    """

    def __init__(self, file: BinaryIO) -> None:
        start = file.read(4)
        file.seek(0)
        pickled, self._read = _zip_file(file) if start[:2] == b"PK" else _stream(file)
        self.content = pickled.value
        self._storages: dict[str, Tensor] = {}

    def made(self, value: Any) -> Any:
        """The tensor that a description describes; any other value as it is."""
        import torch

        if type(value) is not Described:
            return value
        storage, offset, size, stride, name = value
        if type(storage) is not Storage:
            raise Broken("it describes a tensor without a storage")
        dtype = _dtype(name or storage.dtype)
        flat = self._bytes_of(storage).view(dtype)
        whole = type(size) is type(stride) is tuple and len(size) == len(stride)
        numbers = (offset, *size, *stride) if whole else (None,)
        if len(numbers) > 2 * _MOST_DIMENSIONS or any(
            type(number) is not int or not 0 <= number < 2**60 for number in numbers
        ):
            raise Broken("it describes a tensor's shape wrongly")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(flat):
            raise Broken(f"a tensor of shape {tuple(size)} lies outside its storage")
        if dtype is torch.bool and bool((flat.view(torch.uint8) > 1).any()):
            raise Broken("it has truth values other than 0 and 1")
        return torch.as_strided(flat, size, stride, offset)

    def _bytes_of(self, storage: Storage) -> "Tensor":
        import torch

        if storage.key not in self._storages:
            size = storage.numel * _dtype(storage.dtype).itemsize
            data = self._read(storage, size)
            if len(data) != size:
                raise Broken("it shrinks while it is read")
            empty = torch.empty(0, dtype=torch.uint8)
            # bytearray: torch warns of memory that it may not write to
            made = torch.frombuffer(bytearray(data), dtype=torch.uint8) if size else empty
            self._storages[storage.key] = made
        return self._storages[storage.key]


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtype = getattr(torch, name, None) if type(name) is str and name in DTYPES else None
    if not isinstance(dtype, torch.dtype):  # quantised, or newer than this PyTorch
        raise Broken(f"it has numbers of the kind {str(name)[:40]}")
    return dtype


def _zip_file(file: BinaryIO) -> tuple[Pickled, _Read]:
    size = file.seek(0, io.SEEK_END)
    guarded = _Guarded(file)
    archive = zipfile.ZipFile(guarded)
    guarded.most = None
    entries = _entries(archive, size)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Broken("it has no data.pkl of its own")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise Broken("it was written on a big-endian machine")
    if entries[pickles[0]].file_size > MOST_PICKLED:
        raise Broken(f"its pickle has more than {MOST_PICKLED:,} bytes")

    def read(storage: Storage, size: int) -> bytes:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.file_size != size:
            raise _claims(storage, size, -1 if entry is None else entry.file_size)
        return archive.read(entry)

    return unpickled(io.BytesIO(archive.read(pickles[0]))), read


class _Guarded:
    """A zip file whose directory, which `zipfile` reads at once, must be of a sane size."""

    most: int | None = _MOST_DIRECTORY

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise Broken(f"its directory has more than {self.most:,} bytes")
        return self._file.read(size)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. Nothing is ever extracted, yet no checkpoint has odd names."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename
        if ".." in name.split("/") or name[:1] == "/" or "\\" in name or name in entries:
            raise Broken(f"it has the odd entry {name[:80]!r}")
        entries[name] = entry
    if any(name.endswith("/constants.pkl") for name in entries):
        raise Refused("a TorchScript program")
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries.values())
    if not stored or sum(entry.file_size for entry in entries.values()) > size:
        raise Packed  # torch stores weights as they are, so a packed file was made elsewhere
    return entries


def _stream(file: BinaryIO) -> tuple[Pickled, _Read]:
    if unpickled(file).value != _MAGIC or unpickled(file).value != _VERSION:
        raise Broken("it does not begin as torch.save begins a file")
    system = unpickled(file).value
    if not isinstance(system, Mapping) or system.get("little_endian") is not True:
        raise Broken("it was written on a big-endian machine")
    pickled = unpickled(file)
    keys = unpickled(file).value
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    found: dict[str, tuple[int, int]] = {}
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise Broken("it does not list its storages")
    for key in keys:
        storage = pickled.storages.get(key)
        if storage is None or key in found:
            raise Broken("it lists other storages than it describes")
        file.seek(place)
        numel = int.from_bytes(file.read(8), "little", signed=True)
        size = numel * _dtype(storage.dtype).itemsize
        place += 8
        if not 0 <= size <= end - place:
            raise _claims(storage, size, max(0, end - place))
        found[key] = (place, size)
        place += size

    def read(storage: Storage, size: int) -> bytes:
        place, has = found.get(storage.key, (0, -1))
        if has != size:
            raise _claims(storage, size, has)
        file.seek(place)
        return file.read(size)

    return pickled, read


def _claims(storage: Storage, size: int, has: int) -> Broken:
    there = "is not in the file" if has < 0 else f"has {has:,}"
    return Broken(f"storage {storage.key[:40]!r} claims {size:,} bytes and {there}")
