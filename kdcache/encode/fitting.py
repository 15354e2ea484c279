"""Fitting an encoder to a mentor: the coarsest levels within a fidelity, and the table of labels.

Fidelity is a largest mean KL(exact || decoded) at each of the temperatures 1, 4 and 12. A
divergence grows with the square of a step, so a few corrections of a first guess find the step.
"""

from collections.abc import Callable
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from kdcache.encode.levels import HIGHEST, Levels
from kdcache.encode.logits import mean_divergences
from kdcache.encode.residual import Coarse, Residual

AIM = 0.95  # of the fidelity: other samples and views differ a little
MOST_TABLE = 2**20  # bytes; above it a row for all labels
_SHRINK = 2.0  # samples' worth of belief in the mean over all labels
_LEAST_REACH = -400.0  # a log-probability that has a level, whatever was seen
_COARSE_REACH = 1.5  # times the lowest that was seen: other views go lower
_TAIL = 31  # levels beyond a residual's knee
_LEAST_FINE = 0.5  # levels a unit of s, whatever fidelity is asked for
_KNEES = (4.0, 7.0, 10.0, 14.0)  # -log p from which coarse levels suffice
_RATIOS = (1.0, 2.0, 3.0, 4.0)  # how much coarser
_SEARCHED = 512  # rows to choose among these by
_CORRECTIONS = 12

Make = Callable[[float], Levels]  # by fineness


class UnreachableFidelity(ValueError):
    """An encoder cannot hold these targets within the fidelity; the message has the numbers.

    `nearest`: the smallest divergence that it has.
    """

    def __init__(self, message: str, nearest: float = inf) -> None:
        super().__init__(message)
        self.nearest = nearest


def fit_residual(
    targets_KC: NDArray[np.float32], labels_K: NDArray[np.int64], fidelity: float
) -> Residual:
    """Raises UnreachableFidelity."""
    reach = min(_LEAST_REACH, 2 * float(targets_KC.min(initial=0.0)))

    def make(fine: float) -> Levels:
        knee = HIGHEST - _TAIL
        beyond = sqrt(-reach) * (1 + 2**-20) - knee / fine
        coarse = fine if beyond <= 0 else min(fine, _TAIL / beyond)
        return Levels(fine=fine, coarse=coarse, knee=knee)

    levels = _coarsest(make, Residual, targets_KC, labels_K, fidelity, reach)
    return _with_table(Residual, levels, targets_KC, labels_K)


def fit_coarse(
    targets_KC: NDArray[np.float32], labels_K: NDArray[np.int64], fidelity: float
) -> Residual:
    """The knee and ratio of the fewest bytes are searched for. Raises UnreachableFidelity."""
    reach = _COARSE_REACH * float(targets_KC.min(initial=0.0))
    every = max(1, len(labels_K) // _SEARCHED)  # samples may be sorted by label
    some_KC, some_K = targets_KC[::every], labels_K[::every]
    best: tuple[float, Make] | None = None
    reasons = []
    for at in _KNEES:
        for ratio in _RATIOS:
            make = _kinked(at, ratio)
            try:
                levels = _coarsest(make, Coarse, some_KC, some_K, fidelity, reach)
            except UnreachableFidelity as error:
                reasons.append(error)
                continue
            size = _entropy(_with_table(Coarse, levels, targets_KC, labels_K), some_KC, some_K)
            if best is None or size < best[0]:
                best = size, make
    if best is None:
        raise min(reasons, key=lambda error: error.nearest)
    levels = _coarsest(best[1], Coarse, targets_KC, labels_K, fidelity, reach)
    return _with_table(Coarse, levels, targets_KC, labels_K)


def _kinked(at: float, ratio: float) -> Make:
    def make(fine: float) -> Levels:
        return Levels(fine=fine, coarse=fine / ratio, knee=min(HIGHEST, round(fine * sqrt(at))))

    return make


def _coarsest(
    make: Make,
    kind: type[Residual],
    targets_KC: NDArray[np.float32],
    labels_K: NDArray[np.int64],
    fidelity: float,
    reach: float,
) -> Levels:
    """The coarsest levels, among those tried, whose divergences stay within the fidelity.

    And that have a level for `reach`.
    """
    classes = targets_KC.shape[1]
    if classes > MOST_TABLE:
        raise UnreachableFidelity(f"{kind.name} is for at most {MOST_TABLE:,} classes")
    fine, found, least = 32.0, None, inf
    for _ in range(_CORRECTIONS):
        try:
            levels = make(fine)
        except ValueError:
            levels = None
        if levels is None or levels.lowest > reach:  # too fine to reach so low
            fine /= 1.5
            continue
        encoder = kind(levels=levels, table=bytes(classes), num_classes=classes)
        decoded = encoder.round_trip(encoder.encode(targets_KC, labels_K), labels_K)
        worst = max(mean_divergences(targets_KC, decoded).values())
        least = min(least, worst)
        if worst <= AIM * fidelity:
            if found is None or levels.fine < found.fine:
                found = levels
            if worst >= AIM * 0.97 * fidelity or fine <= _LEAST_FINE:
                break
        fine *= sqrt(max(worst, 1e-12) / (AIM * 0.985 * fidelity)) if worst else 0.5
        fine = max(fine, _LEAST_FINE)
    if found is None:
        best = f"the nearest it has is {least:.3g}" if least < inf else "none reach so low"
        raise UnreachableFidelity(
            f"{kind.name} has no levels within a mean KL of {fidelity:g} for these targets "
            f"(down to {targets_KC.min(initial=0.0):.4g}; aiming at {AIM:.0%} of it): {best}",
            least,
        )
    return found


def _with_table(
    kind: type[Residual],
    levels: Levels,
    targets_KC: NDArray[np.float32],
    labels_K: NDArray[np.int64],
) -> Residual:
    """The encoder with mean levels by label and class, drawn towards the mean over all labels."""
    classes = targets_KC.shape[1]
    levels_KC = levels.of(targets_KC).astype(np.float64)
    mean_C = levels_KC.mean(axis=0)
    table = mean_C[None]
    if classes**2 <= MOST_TABLE:
        sums = np.zeros((classes, classes))
        np.add.at(sums, labels_K, levels_KC)
        counts = np.bincount(labels_K, minlength=classes)[:, None]
        table = (sums + _SHRINK * mean_C) / (counts + _SHRINK)
    rounded = np.rint(table).clip(0, HIGHEST).astype(np.uint8)
    return kind(levels=levels, table=rounded.tobytes(), num_classes=classes)


def _entropy(
    encoder: Residual, targets_KC: NDArray[np.float32], labels_K: NDArray[np.int64]
) -> float:
    """Bits a stored residual, of order 0: what a Huffman coder can come near."""
    stored = encoder.encode(targets_KC, labels_K)[:, : encoder.num_classes]
    counts = np.bincount(stored.ravel(), minlength=256)
    share = counts[counts > 0] / stored.size
    return float(-(share * np.log2(share)).sum())
