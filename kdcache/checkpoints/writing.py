"""Writing weights: `.safetensors` only, atomically; equal input, equal bytes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache import durable
from kdcache.checkpoints.state_dict import checked_state_dict
from kdcache.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    state_dict = checked_state_dict(f"what was to be saved as {path}", network_or_state_dict)
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise CheckpointError(f"metadata of {path} must map text to text, got {dict(metadata)!r}")
    try:
        durable.write_file(path, _safetensors_bytes(state_dict, metadata))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


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
