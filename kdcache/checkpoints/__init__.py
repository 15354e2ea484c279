"""Weights on disk: read without running code from the file, loaded strictly, written atomically.

Read: `.safetensors`, and what `torch.save(network.state_dict(), path)` leaves in `.pt`, `.pth` or
`.th`. Written: `.safetensors` only. Every function here raises `CheckpointError` and names the
file.
"""

from kdcache.checkpoints.matching import fit_weights, load_weights
from kdcache.checkpoints.reading import file_sha256, read_metadata, read_state_dict
from kdcache.checkpoints.writing import save_weights

__all__ = [
    "file_sha256",
    "fit_weights",
    "load_weights",
    "read_metadata",
    "read_state_dict",
    "save_weights",
]
