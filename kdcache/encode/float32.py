"""`float32`: the targets as they are, 4 bytes a class."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class Float32(Encoder):
    """Exact. Training from the store then equals training with the mentors online bit for bit."""

    name: str = "float32"
    dtype = "float32"
    fill = float("nan")
    relative_error = 0.0
    absolute_error = 0.0
    arithmetic = "target = stored"

    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        return targets

    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        return rows
