"""What every encoder is: a transform target <-> stored rows with a stated error."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Encoder(ABC):
    """Plain arithmetic between float32 targets (B, *row) and stored rows (B, *row).

    Its error is bounded for every value x it accepts:
    |decode(encode(x)) - x| <= max(relative_error * |x|, absolute_error) + root_error * sqrt(|x|).
    A value it cannot hold within that bound is refused, never clipped.

    `compression`: "zstd" for whole chunks compressed by Zarr's codec of that name; None: as they
    are, to be mapped or read straight into a buffer.
    """

    name: str
    compression: str | None = None
    dtype: ClassVar[str]  # Zarr data type of the stored rows
    fill: ClassVar[float]  # stored where no target is; encode gives it for none
    relative_error: ClassVar[float]
    absolute_error: ClassVar[float]
    root_error: ClassVar[float] = 0.0
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
        return self.relative_error == self.absolute_error == self.root_error == 0

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        """The largest error each value may have after a round trip."""
        magnitude = np.abs(targets, dtype=np.float64)
        linear = np.maximum(self.relative_error * magnitude, self.absolute_error)
        return linear + self.root_error * np.sqrt(magnitude)

    def describe(self) -> dict[str, Any]:
        """As JSON, for the array's attributes."""
        return {
            "name": self.name,
            "arithmetic": self.arithmetic,
            "relative_error": self.relative_error,
            "absolute_error": self.absolute_error,
            "root_error": self.root_error,
        }
