"""Mentors made worse by arithmetic on what is stored: one precompute serves every corruption.

A corrupted row is a stored row whose classes are rolled: as confident as before, and wrong (but for
the few rows that were wrong and are rolled onto the label). What is rolled, and by how much, is
drawn from a seed for each (mentor, sample), the same in every view.

    clean                 nothing is rolled
    specialists           each mentor keeps its own share of the classes; samples of the others are
                          rolled by an offset of its own, as if it had learned other classes
    wrong mentors K       K copies of the stored mentors join them, every row rolled
    wrong rows P          P of each mentor's samples are rolled, each by an offset of its own
    label noise P         the mentors are as stored; P of the labels are other ones

    corruption = wrong_rows(store.labels_N, num_classes=100, num_mentors=4, share=0.5, seed=0)
    source = CorruptedTargets(kdcache.TargetStream(store), corruption)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache import TargetStream
from kdcache.sources import ViewTargets

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Corruption:
    """What M mentors and the labels become, for N samples.

    `copied`: the stored mentor's position for each of the M. `rolled_NM`: by how many classes each
    row is rolled, 0 for one that stays. `labels_N`: what the student is told.
    """

    copied: tuple[int, ...]
    rolled_NM: Integers
    labels_N: Integers


def clean(labels_N: Integers, *, num_classes: int, num_mentors: int, seed: int) -> Corruption:
    """Everything as it is stored."""
    nothing_NM = np.zeros((len(labels_N), num_mentors), dtype=np.int64)
    return Corruption(copied=tuple(range(num_mentors)), rolled_NM=nothing_NM, labels_N=labels_N)


def specialists(labels_N: Integers, *, num_classes: int, num_mentors: int, seed: int) -> Corruption:
    """Each mentor is as stored on its own share of the classes, drawn at random; wrong beyond."""
    draw = np.random.default_rng([seed, 1])
    owner_C = draw.permutation(np.arange(num_classes) % num_mentors)
    offset_M = _different_offsets(draw, num_classes, num_mentors)
    is_foreign_NM = owner_C[labels_N][:, None] != np.arange(num_mentors)
    return Corruption(
        copied=tuple(range(num_mentors)), rolled_NM=is_foreign_NM * offset_M, labels_N=labels_N
    )


def wrong_mentors(
    labels_N: Integers, *, num_classes: int, num_mentors: int, seed: int, count: int
) -> Corruption:
    """`count` mentors join that are wrong about everything, each in its own way."""
    draw = np.random.default_rng([seed, 2])
    kept_M = np.zeros(num_mentors, dtype=np.int64)
    offset_M = np.concatenate([kept_M, _different_offsets(draw, num_classes, count)])
    return Corruption(
        copied=(*range(num_mentors), *(extra % num_mentors for extra in range(count))),
        rolled_NM=np.broadcast_to(offset_M, (len(labels_N), len(offset_M))),
        labels_N=labels_N,
    )


def wrong_rows(
    labels_N: Integers, *, num_classes: int, num_mentors: int, seed: int, share: float
) -> Corruption:
    """Every mentor is wrong about samples of its own, drawn independently."""
    draw = np.random.default_rng([seed, 3])
    is_wrong_NM = draw.random((len(labels_N), num_mentors)) < share
    offset_NM = draw.integers(1, num_classes, is_wrong_NM.shape)
    return Corruption(
        copied=tuple(range(num_mentors)), rolled_NM=is_wrong_NM * offset_NM, labels_N=labels_N
    )


def label_noise(
    labels_N: Integers, *, num_classes: int, num_mentors: int, seed: int, share: float
) -> Corruption:
    """The student is told a wrong label for a share of the samples."""
    draw = np.random.default_rng([seed, 4])
    offset_N = draw.integers(1, num_classes, len(labels_N))
    offset_N *= draw.random(len(labels_N)) < share
    nothing_NM = np.zeros((len(labels_N), num_mentors), dtype=np.int64)
    return Corruption(
        copied=tuple(range(num_mentors)),
        rolled_NM=nothing_NM,
        labels_N=(labels_N + offset_N) % num_classes,
    )


def _different_offsets(draw: np.random.Generator, num_classes: int, count: int) -> Integers:
    """No two mentors err in the same way."""
    offset_M = draw.integers(1, num_classes, count)
    while len(set(offset_M)) < count < num_classes:
        offset_M = draw.integers(1, num_classes, count)
    return offset_M


class CorruptedTargets:
    """A TargetSource: the stream's rows, copied and rolled as a corruption says."""

    rows_per_request = 1

    def __init__(self, stream: TargetStream, corruption: Corruption) -> None:
        self._stream = stream
        self._copied = torch.tensor(corruption.copied)
        self._rolled_NM = torch.from_numpy(np.ascontiguousarray(corruption.rolled_NM))
        self.recipe = stream.recipe
        self.mentors = tuple(
            f"{stream.mentors[source]}.{column}" for column, source in enumerate(corruption.copied)
        )

    def view_of_epoch(self, epoch: int) -> int:
        return self._stream.view_of_epoch(epoch)

    @contextmanager
    def view(self, number: int) -> Iterator["_RolledRows"]:
        with self._stream.view(number) as stored:
            yield _RolledRows(self, stored)

    def roll(self, logits_BMC: torch.Tensor, index_B: Integers) -> torch.Tensor:
        """The stored rows of these samples, as the corrupted mentors would give them."""
        positions_B = self._stream.store.positions(index_B)
        copied_BMC = logits_BMC[:, self._copied.to(logits_BMC.device)]
        rolled_BM1 = self._rolled_NM[positions_B].to(logits_BMC.device).unsqueeze(-1)
        classes = logits_BMC.shape[-1]
        from_BMC = torch.arange(classes, device=logits_BMC.device) - rolled_BM1
        return copied_BMC.gather(-1, from_BMC % classes)


class _RolledRows:
    def __init__(self, source: CorruptedTargets, stored: ViewTargets) -> None:
        self._source, self._stored = source, stored

    def __getitem__(self, index_B: Integers) -> torch.Tensor:
        logits_BMC = self._stored[index_B]
        assert logits_BMC is not None
        return self._source.roll(logits_BMC, index_B)
