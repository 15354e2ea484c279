"""What every encoder is: a transform target <-> stored rows with a stated error."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

# Resident rows (B, M, *row) of M encoders of one family, labels (B,) -> float32 targets (B, M, ..).
Decode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Encoder(ABC):
    """Plain arithmetic between float32 targets (B, *row) and stored rows.

        targets --encode--> stored rows --unpack--> resident rows --decode--> targets
                            in a chunk              in memory, by sample

    Unpacking is done once, when a chunk is loaded, on the CPU; decoding at every batch, on the
    training device. Most encoders store rows as they are kept in memory, of the targets' shape.

    Its error is bounded for every value x it accepts:
    |decoded - x| <= max(relative_error * |x|, absolute_error) + root_error * sqrt(|x|).
    A value it cannot hold within that bound is refused, never clipped.

    `compression`: "zstd" for whole chunks compressed by Zarr's codec of that name; None: as they
    are, to be mapped or read straight into a buffer.
    """

    name: str
    compression: str | None = None
    dtype: ClassVar[str]  # Zarr data type of the stored rows
    fill: ClassVar[float]  # stored where no target is; encode gives it for none
    arithmetic: ClassVar[str]  # how a reader in another language decodes
    zstd_level: ClassVar[int] = 3
    needs_labels: ClassVar[bool] = False  # to decode resident rows
    uncompressed: ClassVar[str] = "sqrt8"  # an encoder near this one that takes any targets

    @property
    @abstractmethod
    def relative_error(self) -> float: ...

    @property
    @abstractmethod
    def absolute_error(self) -> float: ...

    @property
    def root_error(self) -> float:
        return 0.0

    @abstractmethod
    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        """Stored rows of finite float32 targets of samples with these labels.

        Raises ValueError for a value out of range.
        """

    @abstractmethod
    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        """float32 targets of resident rows, on the same device."""

    def unpack(
        self, stored: NDArray[np.generic], labels_B: NDArray[np.int64]
    ) -> NDArray[np.generic]:
        """Resident rows of stored rows."""
        return stored

    @property
    def unpacks(self) -> bool:
        """Whether resident rows are others than the stored ones."""
        return type(self).unpack is not Encoder.unpack

    def stored_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one stored row of a target of shape `row`."""
        return row

    def resident_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one resident row of a target of shape `row`."""
        return row

    @property
    def family(self) -> Hashable:
        """Encoders of one family are decoded side by side, by `decode_together`."""
        return self

    @classmethod
    def decode_together(cls, encoders: Sequence["Encoder"], device: torch.device) -> Decode:
        """Decodes rows of several mentors at once, whose encoders are of one family."""
        return encoders[0].decode

    def round_trip(
        self, stored: NDArray[np.generic], labels_B: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Stored rows decoded, on the CPU."""
        rows = torch.from_numpy(self.unpack(stored, labels_B))
        decoded: NDArray[np.float32] = self.decode(rows, torch.from_numpy(labels_B)).numpy()
        return decoded

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

    def summary(self) -> dict[str, Any]:
        """The description without what only a decoder wants to see."""
        return self.describe()
