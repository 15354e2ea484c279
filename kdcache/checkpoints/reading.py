"""Reading weights from disk without running code from the file."""

import hashlib
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.checkpoints.state_dict import (
    MOST_LISTED,
    SAVE_AGAIN,
    checked_state_dict,
    without_module_prefix,
)
from kdcache.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_TORCH_SUFFIXES = (".pt", ".pth", ".th")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)


def read_state_dict(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The named tensors of a checkpoint, on the CPU, in the file's dtypes.

    A `{"state_dict": ...}` or `{"model": ...}` wrapper and a `module.` before every key
    (DataParallel) are taken off. Pickled files are read by torch's weights-only reader: whatever
    else they ask for is refused.

    Raises `CheckpointError`: missing, a folder, empty, of another kind, truncated or damaged, with
    code to run, not a state dict, or with values that are not finite.
    """
    return without_module_prefix(read_file(Path(path)))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of the file's bytes: a checkpoint's identity in a store's manifest.

    Raises `CheckpointError` where the file cannot be read.
    """
    path = Path(path)
    _refuse_unreadable(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `save_weights` was told beside the weights; {} for a file that carries nothing.

    Reads the header of a `.safetensors` file; torch's formats have no such place.

    Raises `CheckpointError`: missing, a folder, empty, of another kind, truncated or damaged.
    """
    path = Path(path)
    _refuse_unreadable(path)
    _refuse_empty_or_foreign(path)
    if path.suffix in _TORCH_SUFFIXES:
        return {}
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a foreign header can raise anything
        raise _damaged(path, "safetensors", error) from error


def read_file(path: Path) -> "dict[str, Tensor]":
    """The file's tensors under the file's own keys."""
    _refuse_unreadable(path)
    _refuse_empty_or_foreign(path)
    content = _read_torch(path) if path.suffix in _TORCH_SUFFIXES else _read_safetensors(path)
    return checked_state_dict(str(path), content)


def _refuse_empty_or_foreign(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise CheckpointError(
            f"{path}: weights are read from {', '.join(_SUFFIXES)} files, this is "
            f"{path.suffix or 'without a suffix'}. Rename it if it is one of these."
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes). Download or copy it again.")


def _refuse_unreadable(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in _SUFFIXES)
        hint = (
            f"Name a file in it: {', '.join(inside[:MOST_LISTED])}." if inside else "Name a file."
        )
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file. {hint}")
    if path.exists():
        raise CheckpointError(f"{path} is not a regular file.")
    raise CheckpointError(f"there is no checkpoint {path}. Check the path for a typing mistake.")


def _read_safetensors(path: Path) -> object:
    import safetensors.torch

    try:
        # Bytes, not a memory map: a file that shrinks under a map kills the process.
        # The library returns the tensors in a random order.
        return dict(sorted(safetensors.torch.load(path.read_bytes()).items()))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a foreign header can raise anything
        raise _damaged(path, "safetensors", error) from error


def _read_torch(path: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about pickle protocols and old storages: nothing to act on
            inflated = _unpacked_bytes(path) > path.stat().st_size
            content = None if inflated else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a foreign pickle can raise anything
        text = str(error)
        asked = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)|type (\S+) to the unpickler", text)
        if asked or "TorchScript" in text:
            what = next(filter(None, asked.groups())) if asked else "a TorchScript program"
            raise CheckpointError(
                f"{path} was not loaded: it asks to run {what}, which weights alone never need. "
                f"{SAVE_AGAIN}"
            ) from error
        raise _damaged(path, "PyTorch", error) from error
    if inflated:  # torch stores weights as they are, so a packed file was made elsewhere
        raise CheckpointError(
            f"{path} was not loaded: it unpacks to more bytes than it has. {SAVE_AGAIN}"
        )
    return content


def _unpacked_bytes(path: Path) -> int:
    if not zipfile.is_zipfile(path):
        return 0  # torch's older format, or damaged
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run git lfs pull.")
    if head.startswith(b"<"):
        return CheckpointError(f"{path} is a web page, not weights. Download the file itself.")
    # torch's own message advises reading without the safety; only its reason is passed on.
    lines = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    reason = (lines.strip() or type(error).__name__).splitlines()[0].split(". ")[0][:200]
    return CheckpointError(
        f"{path} ({path.stat().st_size:,} bytes) is not a whole {kind} checkpoint: it is "
        f"truncated, damaged or of another kind ({reason}). Download or copy it again."
    )
