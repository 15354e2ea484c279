"""`residual` and `coarse`: levels less what a table of labels and classes predicts, compressed.

What a mentor says of a class depends most on the sample's label. A table of mean levels by (label,
class), fitted once on real targets of that mentor, and the row's own mean residual (one byte)
predict a level; the difference is stored modulo 256, so that predicting loses nothing, and
Zstandard's Huffman coder brings it near its entropy. Mentors stay apart: each has its own table.

Top-k forms are no match: most of the mass at temperature 4 and 12 lies outside the k (docs/log.md).
"""

import base64
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Decode, Encoder
from kdcache.encode.levels import Levels, decode_levels

NONE = 128  # as a row's mean residual: no target is here
LARGEST_MEAN = 127
EXACT_BYTES = 8  # float32 log-probability of the label, float32 shift of the other classes


@dataclass(frozen=True, kw_only=True)
class Residual(Encoder):
    """Log-probabilities as levels, predicted by label.

    `levels`: how fine. `table`: uint8 mean levels, C bytes a row; a row a label, or one for all.
    A stored row has C residual bytes and the row's mean residual.
    """

    name: str = "residual"
    compression: str | None = "zstd"
    levels: Levels
    table: bytes = field(repr=False)
    num_classes: int
    dtype = "uint8"
    fill = float(NONE)
    zstd_level = 1  # matches between rows are rare, and cost more than they save
    arithmetic = (
        "p = table[min(label, rows - 1)]; q = (stored[0..C-1] + p + stored[C]) mod 256; "
        "s = min(q, knee) * float32(1 / fine) + max(q - knee, 0) * float32(1 / coarse); "
        "target = -(s * s), in float32; stored[C] = 128: no target"
    )

    relative_error = 0.0

    @property
    def absolute_error(self) -> float:
        return self.levels.error[0]

    @property
    def root_error(self) -> float:
        return self.levels.error[1]

    @property
    def exact(self) -> bool:
        return False

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.levels.bound(targets)

    def stored_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        return (row[0] + 1,)

    @property
    def family(self) -> Hashable:
        return type(self), self.num_classes

    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        if labels_B is None:
            raise ValueError(f"{self.name} predicts targets by label: give their labels")
        levels = np.rint(self._levels_of(targets))
        predicted = self._predicted(labels_B)
        mean_B = np.rint((levels - predicted).mean(axis=1, dtype=np.float64))
        mean_B = mean_B.clip(-LARGEST_MEAN, LARGEST_MEAN).astype(np.int16)[:, None]
        stored = np.empty((len(targets), targets.shape[1] + 1), dtype=np.uint8)
        stored[:, :-1] = levels.astype(np.int16) - predicted - mean_B  # modulo 256
        stored[:, -1:] = mean_B
        return stored

    def unpack(
        self, stored: NDArray[np.generic], labels_B: NDArray[np.int64]
    ) -> NDArray[np.generic]:
        """Levels, uint8 (B, C)."""
        levels = self._predicted(labels_B)
        classes = levels.shape[1]
        rows: NDArray[np.uint8] = stored.view(np.uint8)
        levels += rows[:, :classes]
        levels += rows[:, classes : classes + 1]
        return levels

    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        return decode_levels(rows, *_parameters([self], rows.device)[:, 0])

    @classmethod
    def decode_together(cls, encoders: Sequence[Encoder], device: torch.device) -> Decode:
        fine_M1, coarse_M1, knee_M1 = _parameters(encoders, device)

        def decode(rows_BMC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
            return decode_levels(rows_BMC, fine_M1, coarse_M1, knee_M1)

        return decode

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "fine": self.levels.fine,
            "coarse": self.levels.coarse,
            "knee": self.levels.knee,
            "table": base64.b64encode(self.table).decode("ascii"),
        }

    def summary(self) -> dict[str, Any]:
        described = self.describe()
        digest = hashlib.sha256(described.pop("table").encode()).hexdigest()
        return {**described, "table_sha256": digest}

    @classmethod
    def from_description(cls, described: Mapping[str, Any], num_classes: int) -> "Residual":
        """The encoder of that description. Raises ValueError for one that nobody wrote."""
        fine, coarse, knee = (described.get(key) for key in ("fine", "coarse", "knee"))
        if not (isinstance(fine, float) and isinstance(coarse, float) and type(knee) is int):
            raise ValueError("fine and coarse are numbers with a fraction, the knee is an integer")
        levels = Levels(fine=fine, coarse=coarse, knee=knee)
        text = described.get("table")
        table = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        if len(table) not in (num_classes, num_classes**2):
            raise ValueError(f"its table has {len(table)} bytes for {num_classes} classes")
        return cls(levels=levels, table=table, num_classes=num_classes)

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.table, dtype=np.uint8).reshape(-1, self.num_classes)

    def _predicted(self, labels_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        rows_B = np.minimum(labels_B, len(self._table) - 1)
        return self._table.take(rows_B, axis=0)

    def _levels_of(self, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Levels before rounding. Raises ValueError for what has none."""
        highest, lowest = targets.max(initial=self.levels.lowest), targets.min(initial=0.0)
        if not (highest <= 0 and lowest >= self.levels.lowest):  # NaN compares false
            raise ValueError(
                f"{self.name} holds log-probabilities from {self.levels.lowest:.1f} to 0 here, a "
                f"target is {highest if not highest <= 0 else lowest:g}; use --encoder float16"
            )
        return self.levels.of(targets)


@dataclass(frozen=True, kw_only=True)
class Coarse(Residual):
    """For many classes and a larger divergence: coarse levels, and exactly the label's probability.

    After the residual's bytes a stored row has two little-endian float32: the log-probability of
    the label as it is, and a shift of all other classes by which they have their exact mass. So
    p(label) is exact under softmax at temperature 1, to the rounding of float32.
    """

    name: str = "coarse"
    needs_labels = True
    arithmetic = (
        f"{Residual.arithmetic}; then target[c] = target[c] + shift for c other than the label, "
        "target[label] = exact; exact, shift = the two little-endian float32 in stored[C+1..C+8]"
    )

    @property
    def absolute_error(self) -> float:
        """Twice that of a level, and the most a shift can be: that of the lowest level."""
        a, b = self.levels.error
        return 2 * a + b * self.levels.furthest

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        """A shift is at most the largest error in its row."""
        each = self.levels.bound(targets)
        bound: NDArray[np.float64] = each + each.max(axis=-1, keepdims=True) + 1e-5
        return bound

    def stored_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        return (row[0] + 1 + EXACT_BYTES,)

    def resident_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        return (row[0] + EXACT_BYTES,)

    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        residual = super().encode(targets, labels_B)
        assert labels_B is not None
        levels = torch.from_numpy(super().unpack(residual, labels_B))
        decoded = super().decode(levels).numpy()
        label_B1 = labels_B[:, None]
        exact_B2 = np.empty((len(targets), 2), dtype="<f4")
        exact_B2[:, :1] = np.take_along_axis(targets, label_B1, axis=1)
        exact_B2[:, 1] = 0.0
        if targets.shape[1] > 1:
            exact_B2[:, 1] = _mass_without(targets, label_B1) - _mass_without(decoded, label_B1)
        return np.concatenate([residual, exact_B2.view(np.uint8)], axis=1)

    def unpack(
        self, stored: NDArray[np.generic], labels_B: NDArray[np.int64]
    ) -> NDArray[np.generic]:
        """uint8 (B, C + 8): levels, then the bytes of the label's value and of the shift."""
        exact = stored[:, -EXACT_BYTES:]
        return np.concatenate([super().unpack(stored, labels_B), exact], axis=1)

    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        if labels_B is None:
            raise ValueError(f"{self.name} keeps the label's value apart: give the labels")
        return self.decode_together([self], rows.device)(rows[:, None], labels_B)[:, 0]

    @classmethod
    def decode_together(cls, encoders: Sequence[Encoder], device: torch.device) -> Decode:
        of_levels = Residual.decode_together(encoders, device)

        def decode(rows_BMR: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
            # A copy of its own: in a slice of one row the bytes may lie where no float32 may.
            bytes_BM8 = rows_BMR[..., -EXACT_BYTES:].clone(memory_format=torch.contiguous_format)
            exact_BM2 = bytes_BM8.view(torch.float32)
            decoded = of_levels(rows_BMR[..., :-EXACT_BYTES], labels_B).add_(exact_BM2[..., 1:])
            at_BM1 = labels_B[:, None, None].expand(*exact_BM2.shape[:2], 1)
            return decoded.scatter_(-1, at_BM1, exact_BM2[..., :1])

        return decode


def _parameters(encoders: Sequence[Encoder], device: torch.device) -> torch.Tensor:
    """float32 (3, M, 1): units of s a level below and above the knee, and the knee."""
    levels = [encoder.levels for encoder in encoders if isinstance(encoder, Residual)]
    each = [[1 / one.fine, 1 / one.coarse, one.knee] for one in levels]
    return torch.tensor(each, dtype=torch.float64).T[..., None].to(device, torch.float32)


def _mass_without(
    log_probs_BC: NDArray[np.float32], label_B1: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 (B,): the logsumexp of all classes but the label's."""
    others = log_probs_BC.astype(np.float64, order="C")  # sums depend on it
    np.put_along_axis(others, label_B1, -np.inf, axis=1)
    highest_B1 = others.max(axis=1, keepdims=True)
    mass: NDArray[np.float64] = highest_B1[:, 0] + np.log(np.exp(others - highest_B1).sum(axis=1))
    return mass
