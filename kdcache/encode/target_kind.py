"""What a kind of target is: the shape of its rows, how right it is, and what encoding cost it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.tasks import PRIMARY

SOURCE = "source_"
MEASURED_ROWS = 1024  # of a chunk, at most, where measuring a row costs more than reading it


class TargetKind(ABC):
    """One kind of what a mentor gives for a view (logits, heatmaps, features, ..). Stateless.

    `values`: what its numbers are called in messages. `encoders`: names of those it may be stored
    by. `option`: of `kdcache precompute`, which adds this kind; None: always there.
    A mentor has exactly one `primary` kind, and is one from when it has it. `most_block`: samples a
    chunk of stores of which it is the primary kind, at most, where the usual ones would be too
    large; `default_encoder`: of these, where none is asked for. `largest`: of its error sums, which
    is the largest change of any number, without `max_`.
    `from_features`: made of the network's pooled features, and as wide as the network has them;
    else of its output.
    """

    name: ClassVar[str]
    dimension_names: ClassVar[tuple[str, ...]]
    values: ClassVar[str]
    encoders: ClassVar[tuple[str, ...]]
    option: ClassVar[str | None] = None
    most_block: ClassVar[int | None] = None
    default_encoder: ClassVar[str] = "float16"
    largest: ClassVar[str] = "absolute"
    from_features: ClassVar[bool] = False

    @property
    def primary(self) -> bool:
        """Whether it is one that mentors of a task have, and are taught by."""
        return self.name in PRIMARY

    @abstractmethod
    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        """Shape of one (view, sample) row.

        `described`: what the rows are of, a dataset's identity, and for views of a height and
        width "heatmap_shape" (`Manifest.described`).
        `width`: of rows that are as wide as the network has them; ValueError for one it cannot be.
        """

    @abstractmethod
    def encoder_beside(self, primary: Encoder) -> str:
        """The name of the encoder, where the same mentor's primary targets have that one."""

    @abstractmethod
    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A forward pass to float32 targets (B, *row), the form that is taught and stored.

        `output_BC`: the network's; `features_BF`: its pooled ones, where `from_features` asks.
        """

    def num_correct(self, targets: NDArray[np.float32], labels_B: NDArray[np.int64]) -> int:
        """How many rows are right, for the mentor's accuracy; 0 where none can be."""
        return 0

    def source_error(self, sums: Mapping[str, float]) -> float:
        """The largest error that targets had before they were encoded; 0 where they were exact."""
        return sums.get(f"max_{SOURCE}{self.largest}", 0.0)

    @abstractmethod
    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """What encoding cost: sums over rows, and maxima under names that begin with `max_`."""

    def cost(self, errors: Mapping[str, float]) -> float:
        """What encoding cost, as one number for comparing encodings; of means of error sums."""
        return errors.get("relative", 0.0)

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


def as_source(sums: Mapping[str, float]) -> dict[str, float]:
    """A source's error sums, named for the records of targets that were read from it."""
    return {
        f"max_{SOURCE}{key.removeprefix('max_')}" if key.startswith("max_") else SOURCE + key: value
        for key, value in sums.items()
        if key != "measured_rows"
    }


def has_source(sums: Mapping[str, float]) -> bool:
    """Whether these error sums are of targets that were not exact before they were encoded."""
    return any(key.removeprefix("max_").startswith(SOURCE) for key in sums)


def measured_rows(count: int, most: int = MEASURED_ROWS) -> NDArray[np.int64]:
    """The rows of a chunk of `count` its error sums are over: evenly spaced, at most `most`."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))
