"""Weights on disk: read without running code from the file, loaded strictly, written atomically.

Read: `.safetensors`, and what `torch.save(network.state_dict(), path)` leaves in `.pt`, `.pth` or
`.th`. Written: `.safetensors` only. Every function here raises `CheckpointError` and names the
file.
"""

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache import durable
from kdcache.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

_TORCH_SUFFIXES = (".pt", ".pth", ".th")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)
_WRAPPERS = ("state_dict", "model")
_MOST_EXPANDED = 2**28  # bytes a tensor may claim beyond its storage, by strides of 0
_LISTED = 5  # keys of each kind an error shows; the rest is a count
_SAVE_AGAIN = (
    "Save the weights alone, torch.save(network.state_dict(), path), where the file comes from."
)


def read_state_dict(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    """The named tensors of a checkpoint, on the CPU, in the file's dtypes.

    A `{"state_dict": ...}` or `{"model": ...}` wrapper and a `module.` before every key
    (DataParallel) are taken off. Pickled files are read by torch's weights-only reader: whatever
    else they ask for is refused.

    Raises `CheckpointError`: missing, a folder, empty, of another kind, truncated or damaged, with
    code to run, not a state dict, or with values that are not finite.
    """
    return _without_module_prefix(_read(Path(path)))


def load_weights(network: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Loads the checkpoint into the network: the same keys and shapes on both sides, or an error.

    Only BatchNorm's `num_batches_tracked` may be missing: files from before PyTorch 0.4.1 lack it
    and inference does not read it. Values are cast to the network's dtypes and copied to its
    device.

    Raises `CheckpointError` as `read_state_dict` does, and for a checkpoint of another network; the
    network is then as it was.
    """
    path = Path(path)
    found = _read(path)
    state = network.state_dict()  # an OrderedDict that keeps the modules' version numbers
    expected = {key: value for key, value in state.items() if _is_tensor(value)}
    if not _all_prefixed(expected):
        found = _without_module_prefix(found)
    _refuse_mismatch(path, type(network).__name__, found, expected)
    cast = {key: value.to(expected[key].dtype) for key, value in found.items()}
    _refuse_non_finite(str(path), cast)  # a float64 value may overflow float32
    state.update(cast)
    network.load_state_dict(state)


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


def save_weights(
    path: str | os.PathLike[str],
    network_or_state_dict: "nn.Module | Mapping[str, Tensor]",
    metadata: Mapping[str, str],
) -> None:
    """Writes `.safetensors` atomically: the whole file, or what was there before.

    Equal input gives equal bytes. Missing parent folders are made. The file carries `metadata` as
    safetensors' own `__metadata__`.

    Raises `CheckpointError`: another suffix, nothing to save, values that are not finite or not
    tensors, metadata that is not text, a folder that cannot be written.
    """
    from torch import nn

    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"weights are written as .safetensors, got the file name {path}")
    if isinstance(network_or_state_dict, nn.Module):
        network_or_state_dict = network_or_state_dict.state_dict()
    state_dict = _state_dict(f"what was to be saved as {path}", network_or_state_dict)
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise CheckpointError(f"metadata of {path} must map text to text, got {dict(metadata)!r}")
    try:
        durable.write_file(path, _safetensors_bytes(state_dict, metadata))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def _read(path: Path) -> "dict[str, Tensor]":
    """The file's tensors under the file's own keys."""
    _refuse_unreadable(path)
    _refuse_empty_or_foreign(path)
    content = _read_torch(path) if path.suffix in _TORCH_SUFFIXES else _read_safetensors(path)
    return _state_dict(str(path), content)


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
        hint = f"Name a file in it: {', '.join(inside[:_LISTED])}." if inside else "Name a file."
        raise CheckpointError(f"{path} is a folder, expected a checkpoint file. {hint}")
    if path.exists():
        raise CheckpointError(f"{path} is not a regular file.")
    raise CheckpointError(f"there is no checkpoint {path}. Check the path for a typing mistake.")


def _read_safetensors(path: Path) -> object:
    import safetensors.torch

    try:
        # Bytes, not a memory map: a file that shrinks under a map kills the process.
        return safetensors.torch.load(path.read_bytes())
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
                f"{_SAVE_AGAIN}"
            ) from error
        raise _damaged(path, "PyTorch", error) from error
    if inflated:  # torch stores weights as they are, so a packed file was made elsewhere
        raise CheckpointError(
            f"{path} was not loaded: it unpacks to more bytes than it has. {_SAVE_AGAIN}"
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


def _state_dict(origin: str, content: object) -> "dict[str, Tensor]":
    """`content` as a checked state dict, out of its wrapper; `origin` opens the errors."""
    if isinstance(content, Mapping):
        wrapped = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        content = wrapped[0] if wrapped else content
    if not isinstance(content, Mapping):
        what = "one tensor" if _is_tensor(content) else f"a {type(content).__name__}"
        raise CheckpointError(f"{origin} is {what}, expected a state dict. {_SAVE_AGAIN}")
    if not content:
        raise CheckpointError(f"{origin} is a state dict without any tensor. {_SAVE_AGAIN}")
    others = {
        str(key): type(value).__name__
        for key, value in content.items()
        if not (isinstance(key, str) and _is_tensor(value))
    }
    if others:
        parts = _listed(
            others, "not plain tensors", (f"{key} ({kind})" for key, kind in others.items())
        )
        raise CheckpointError(f"{origin} is not a state dict:{parts}\n{_SAVE_AGAIN}")
    state_dict = dict(content)
    _refuse_non_finite(origin, state_dict)
    return state_dict


def _is_tensor(value: object) -> bool:
    """A plain tensor: not sparse, quantised or without data, no small storage in a huge shape."""
    import torch

    if not isinstance(value, torch.Tensor):
        return False
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    claimed = value.numel() * value.element_size()
    return claimed <= max(value.untyped_storage().nbytes(), _MOST_EXPANDED)


def _refuse_non_finite(origin: str, state_dict: "Mapping[str, Tensor]") -> None:
    import torch

    bad = [
        key
        for key, value in state_dict.items()
        if (value.is_floating_point() or value.is_complex())
        # float8 types have no isfinite of their own
        and not torch.isfinite(value.float() if value.element_size() == 1 else value).all()
    ]
    if bad:
        raise CheckpointError(
            f"{origin} has NaN or infinite values:{_listed(bad, 'not finite', bad)}\n"
            "The training behind it diverged; take an earlier checkpoint."
        )


def _refuse_mismatch(
    path: Path, network: str, found: "dict[str, Tensor]", expected: "dict[str, Tensor]"
) -> None:
    """Raises with both sides unless the file's tensors fit the network's, name by name."""
    missing = [k for k in expected if k not in found and not k.endswith(".num_batches_tracked")]
    unknown = [key for key in found if key not in expected]
    shapes = {
        key: (tuple(found[key].shape), tuple(expected[key].shape))
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    }
    kinds = [
        key
        for key in expected
        if key in found and expected[key].is_floating_point() and not found[key].is_floating_point()
    ]
    if not missing and not unknown and not kinds and shapes:
        _refuse_other_class_count(path, shapes)
    if missing or unknown or shapes or kinds:
        parts = [
            _listed(missing, "the network expects and the file lacks", missing),
            _listed(unknown, "the file has and the network does not know", unknown),
            _listed(
                shapes,
                "of another shape",
                (
                    f"{key} {theirs} in the file, {ours} here"
                    for key, (theirs, ours) in shapes.items()
                ),
            ),
            _listed(
                kinds,
                "not floating point",
                (f"{key} {found[key].dtype} in the file" for key in kinds),
            ),
        ]
        raise CheckpointError(
            f"{path} is not a checkpoint of this {network}:"
            + "".join(parts)
            + "\nGive the checkpoint of this very network, or name the network the file belongs to."
        )


def _refuse_other_class_count(
    path: Path, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Raises when the outputs' number is all that differs: any other layer's width would change its
    successor's input too."""
    pairs = {(theirs[:1], ours[:1]) for theirs, ours in shapes.values()}
    if len(pairs) == 1 and all(theirs[1:] == ours[1:] for theirs, ours in shapes.values()):
        ((theirs, ours),) = pairs
        raise CheckpointError(
            f"{path} has {theirs[0]} classes, the dataset has {ours[0]}. "
            "Give a checkpoint trained on this dataset, or train one: kdcache train-mentor NAME."
        )


def _listed(keys: Iterable[object], title: str, lines: Iterable[str]) -> str:
    count = len(list(keys))
    if not count:
        return ""
    shown = list(lines)[:_LISTED]
    rest = [f"and {count - _LISTED} more"] if count > _LISTED else []
    noun = "key" if count == 1 else "keys"
    return f"\n  {count} {noun} {title}: " + "; ".join(shown + rest)


def _all_prefixed(keys: Iterable[str]) -> bool:
    return all(key.startswith("module.") for key in keys)


def _without_module_prefix(state_dict: "dict[str, Tensor]") -> "dict[str, Tensor]":
    if not _all_prefixed(state_dict):
        return state_dict
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def _safetensors_bytes(state_dict: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> bytes:
    import safetensors.torch
    import torch

    # Clones: safetensors refuses tensors that share memory, as tied layers' do.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state_dict.items()
    }
    data = safetensors.torch.save(tensors, dict(metadata))
    # The library writes the metadata in a random order; sorted, equal weights give equal files.
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
