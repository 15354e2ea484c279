"""checkpoint.pt: all of a run's state in one file, which proves itself before it is believed.

torch's own archive, then one line with its SHA-256 (plain `torch.load` reads it all the same).
torch writes checksums but never compares them: a flipped bit would become a weight.

There is one checkpoint and no spare. It appears whole or not at all, so only a failing disk or a
bad copy can damage it; a spare on the same disk would hide that. And nothing is lost but time: a
run is decided by its config, so from its first epoch it ends the same.
"""

import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from kdcache import durable
from kdcache.errors import CheckpointError

_TRAILER = "\nkdcache checkpoint, SHA-256 {}\n"
_TRAILER_BYTES = len(_TRAILER.format("0" * 64))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint by `state` (tensors and plain values)."""
    archive = io.BytesIO()  # in memory once more: it is hashed and written in one piece
    torch.save(state, archive)
    content = archive.getbuffer()
    durable.write_file(path, content, _trailer(content))


def load_state(path: Path) -> object:
    """What was saved, on the CPU. Runs no code of the file's.

    Raises CheckpointError: unreadable, damaged, truncated, or not one of ours.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror or error}); check its permissions and its disk"
        ) from error
    archive, trailer = content[:-_TRAILER_BYTES], content[-_TRAILER_BYTES:]
    if trailer != _trailer(archive):
        raise unusable(path, "its bytes do not have the SHA-256 at its end")
    try:
        # torch stores tensors as they are; a packed archive could unpack to any size.
        with zipfile.ZipFile(io.BytesIO(archive)) as entries:
            packed = sum(entry.file_size for entry in entries.infolist()) > len(archive)
        if not packed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about kinds of tensors that are refused later
                return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign archive can raise anything
        raise unusable(path, f"it cannot be read: {type(error).__name__}") from error
    raise unusable(path, "it is compressed")


def unusable(path: Path, reason: str) -> CheckpointError:
    """The error for a checkpoint that a run cannot go on from, and what to do about it."""
    return CheckpointError(
        f"{path} is damaged, or of another run or version of kdcache ({reason}). Put a good copy "
        "in its place if you have one; or delete it and give the same command again: the run then "
        "starts over, and ends as it would have"
    )


def _trailer(archive: memoryview) -> bytes:
    return _TRAILER.format(hashlib.sha256(archive).hexdigest()).encode()
