"""safetensors files: the header is read by us, strictly, before the library sees the file.

Memory: the header has at most 4 MiB and takes at most 64 times its size as JSON; the tensors are
the library's, which checks each against the header: twice the file while it is read.
"""

import os
from typing import TYPE_CHECKING, Any, BinaryIO

from kdcache.untrusted import parse_json

if TYPE_CHECKING:
    from torch import Tensor

_MOST_HEADER = 4 * 2**20  # bytes; some 40,000 tensors


def safetensors_metadata(file: BinaryIO) -> dict[str, str]:
    """What stands beside the tensors. Raises ValueError for whatever is no such header."""
    metadata = _header(file).get("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise ValueError("its __metadata__ does not map text to text")
    return metadata


def safetensors_file(file: BinaryIO) -> "dict[str, Tensor]":
    """The tensors by name, sorted. Raises ValueError or what the library raises."""
    import safetensors.torch

    safetensors_metadata(file)
    file.seek(0)
    # Bytes, not a memory map: a file that shrinks under a map kills the process.
    # The library returns the tensors in a random order.
    return dict(sorted(safetensors.torch.load(file.read()).items()))


def _header(file: BinaryIO) -> dict[str, Any]:
    size = int.from_bytes(file.read(8), "little")
    if size > min(_MOST_HEADER, os.fstat(file.fileno()).st_size - 8):
        raise ValueError(f"its header claims {size:,} bytes")
    header = parse_json(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header
