"""What a kind of target is: the shape of its rows, how right it is, and what encoding cost it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray


class TargetKind(ABC):
    """One kind of mentor output (logits; later features, heatmaps). Stateless."""

    name: ClassVar[str]
    dimension_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def row_shape(self, dataset_identity: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of one (view, sample) row for a dataset."""

    @abstractmethod
    def from_output(self, output: torch.Tensor) -> torch.Tensor:
        """A network's output (B, *row) to float32 targets, the form that is taught and stored."""

    @abstractmethod
    def num_correct(self, targets: NDArray[np.float32], labels_B: NDArray[np.int64]) -> int:
        """How many rows are right, for the mentor's accuracy on its cached views."""

    @abstractmethod
    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """What encoding cost: sums over rows, and maxima under names that begin with `max_`."""

    def combine_error_sums(self, sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
        """Means and maxima over many chunks' error sums; empty if none was measured."""
        totals: dict[str, float] = {}
        for chunk in sums:
            for key, value in chunk.items():
                if key.startswith("max_"):
                    totals[key] = max(totals.get(key, 0.0), value)
                else:
                    totals[key] = totals.get(key, 0.0) + value
        rows = totals.pop("measured_rows", 0.0)
        return {
            key: value if key.startswith("max_") else value / rows
            for key, value in totals.items()
            if rows
        }
