"""Reading weights from disk without running code from the file.

Memory: at most 3 times the file plus 256 MiB, whatever the file claims; `pickled`, `torch_files`
and `safetensors_files` say where each limit lies.
"""

import errno
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kdcache.checkpoints.described import Described, Refused
from kdcache.checkpoints.safetensors_files import safetensors_file, safetensors_metadata
from kdcache.checkpoints.state_dict import (
    MOST_LISTED,
    SAVE_AGAIN,
    checked_state_dict,
    unwrapped,
    without_module_prefix,
)
from kdcache.checkpoints.torch_files import Packed, TorchFile
from kdcache.errors import CheckpointError
from kdcache.untrusted import open_file

if TYPE_CHECKING:
    from torch import Tensor

_TORCH_SUFFIXES = (".pt", ".pth", ".th")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)


def read_state_dict(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The named tensors of a checkpoint, on the CPU, in the file's dtypes.

    A wrapper such as `{"state_dict": ...}` or `{"model": ...}` and a `module.` before every key
    (DataParallel) are taken off. A pickle's names are never looked up (`pickled`): a run's options
    and numpy numbers beside the weights are passed over, whatever else it asks for is refused.

    Raises `CheckpointError`: missing, a folder, empty, of another kind, truncated or damaged, with
    code to run, not a state dict, or with values that are not finite.
    """
    return without_module_prefix(read_file(Path(path)))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of the file's bytes: a checkpoint's identity in a store's manifest.

    Raises `CheckpointError` where the file cannot be read.
    """
    path = Path(path)
    with _opened(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `save_weights` was told beside the weights; {} for a file that carries nothing.

    Reads the header of a `.safetensors` file; torch's formats have no such place.

    Raises `CheckpointError`: missing, a folder, empty, of another kind, truncated or damaged.
    """
    path = Path(path)
    with _opened(path, checkpoint=True) as file:
        if path.suffix in _TORCH_SUFFIXES:
            return {}
        try:
            return safetensors_metadata(file)
        except Exception as error:  # a foreign header can raise anything
            _explain(path, "safetensors", error)


def read_file(path: Path) -> "dict[str, Tensor]":
    """The file's tensors under the file's own keys."""
    kind = "PyTorch" if path.suffix in _TORCH_SUFFIXES else "safetensors"
    with _opened(path, checkpoint=True) as file:
        try:
            content = _torch(path, file) if kind == "PyTorch" else safetensors_file(file)
        except CheckpointError:
            raise
        except Exception as error:  # a foreign file can raise anything
            _explain(path, kind, error)
    return checked_state_dict(str(path), content)


def _torch(path: Path, file: io.BufferedReader) -> object:
    """The state dict with its tensors made; what lies beside it stays undone."""
    read = TorchFile(file)
    content = unwrapped(str(path), read.content, Described)
    if isinstance(content, Mapping):
        return {key: read.made(value) for key, value in content.items()}
    return read.made(content)


def _opened(path: Path, *, checkpoint: bool = False) -> io.BufferedReader:
    try:
        file = open_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no checkpoint {path}. Check the path for a typing mistake."
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        if path.is_dir():
            raise _folder(path) from None
        raise CheckpointError(f"{path} is not a regular file: {error}. Name a file.") from error
    if checkpoint and path.suffix not in _SUFFIXES:
        file.close()
        raise CheckpointError(
            f"{path}: weights are read from {', '.join(_SUFFIXES)} files, this is "
            f"{path.suffix or 'without a suffix'}. Rename it if it is one of these."
        )
    if checkpoint and not os.fstat(file.fileno()).st_size:
        file.close()
        raise CheckpointError(f"{path} is empty (0 bytes). Download or copy it again.")
    return file


def _folder(path: Path) -> CheckpointError:
    try:
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in _SUFFIXES)
    except OSError as error:
        return _unreadable(path, error)
    hint = f"Name a file in it: {', '.join(inside[:MOST_LISTED])}." if inside else "Name a file."
    return CheckpointError(f"{path} is a folder, expected a checkpoint file. {hint}")


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot read {path}: {error.strerror or error}. Check the path and its permissions."
    )


def _explain(path: Path, kind: str, error: Exception) -> NoReturn:
    """Raises what the person at the terminal reads for a file that is no checkpoint."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a wild seek
        raise _unreadable(path, error) from error
    if isinstance(error, Refused):
        raise CheckpointError(
            f"{path} was not loaded: it asks to run {error}, which weights alone never need. "
            f"{SAVE_AGAIN}"
        ) from error
    if isinstance(error, Packed):
        raise CheckpointError(
            f"{path} was not loaded: it unpacks to more bytes than it has. {SAVE_AGAIN}"
        ) from error
    with _opened(path) as file:
        head, size = file.read(64).lstrip(), os.fstat(file.fileno()).st_size
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run git lfs pull.")
    if head.startswith(b"<"):
        raise CheckpointError(f"{path} is a web page, not weights. Download the file itself.")
    reason = ((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
    raise CheckpointError(
        f"{path} ({size:,} bytes) is not a whole {kind} checkpoint: it is truncated, damaged or of "
        f"another kind ({reason}). Download or copy it again."
    ) from error
