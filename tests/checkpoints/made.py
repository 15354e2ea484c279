"""Checkpoint files made byte by byte: zips, pickles and headers that no library would write."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable

import torch
from torch import Tensor, nn

MIB = 2**20


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    return dict(network.state_dict())


def torch_bytes(content: object, *, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def safetensors_bytes(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return file.getvalue()


def rezipped(
    content: object, change: Callable[[dict[str, bytes]], object], method: int = zipfile.ZIP_STORED
) -> bytes:
    """A good file with some of its entries changed."""
    with zipfile.ZipFile(io.BytesIO(torch_bytes(content))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    return zipped(entries, method)


STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a" + bytes([17]) + value.to_bytes(17, "little", signed=True)


def tensor(
    numel: int = 4, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0
) -> bytes:
    """The steps that make a float32 tensor over storage '0'."""
    shape = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    storage = b"(" + text("storage") + STORAGE + text("0") + text("cpu") + number(numel) + b"tQ"
    empty = b"ccollections\nOrderedDict\n)R"
    return REBUILD + b"(" + storage + number(offset) + shape + b"\x89" + empty + b"tR"


def with_pickle(steps: bytes, data: bytes = bytes(16)) -> bytes:
    entries = {"a/data.pkl": b"\x80\x02" + steps + b".", "a/data/0": data, "a/version": b"3\n"}
    return zipped(entries)


def one(value: bytes, data: bytes = bytes(16)) -> bytes:
    return with_pickle(b"}" + text("w") + value + b"s", data)


def stream(steps: bytes, numel: int = 4, data: bytes = bytes(16), keys: object = ("0",)) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True}
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    steps = steps.replace(b"tQ", b"NtQ")  # the older format says of which storage it is a view
    end = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    return start + b"\x80\x02" + steps + b"." + end + struct.pack("<q", numel) + data


def laughs(levels: int = 60) -> bytes:
    """A tuple of two tuples of two tuples ..: small, and for ever to hash or to walk."""
    return b")" + b"".join(b"\x94h" + bytes([level]) + b"\x86" for level in range(levels))
