"""What every encoder is: a transform target <-> stored rows with a stated error."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoder(ABC):
    """Plain arithmetic between float32 targets (B, *row) and stored rows (B, *row).

    Its error is bounded for every value x it accepts:
    |decode(encode(x)) - x| <= max(relative_error * |x|, absolute_error).
    """

    name: ClassVar[str]
    dtype: ClassVar[str]  # Zarr data type of the stored rows
    relative_error: ClassVar[float]
    absolute_error: ClassVar[float]
    arithmetic: ClassVar[str]  # how a reader in another language decodes

    @abstractmethod
    def encode(self, targets: NDArray[np.float32]) -> NDArray[np.generic]:
        """Stored rows of finite float32 targets. Raises ValueError for a value out of range."""

    @abstractmethod
    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """float32 targets of stored rows, on the same device."""

    @property
    def exact(self) -> bool:
        """Whether decoding gives back every bit."""
        return self.relative_error == 0 == self.absolute_error

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        """The largest error each value may have after a round trip."""
        return np.maximum(
            self.relative_error * np.abs(targets, dtype=np.float64), self.absolute_error
        )

    def describe(self) -> dict[str, Any]:
        """As JSON, for the array's attributes."""
        return {
            "name": self.name,
            "arithmetic": self.arithmetic,
            "relative_error": self.relative_error,
            "absolute_error": self.absolute_error,
        }
