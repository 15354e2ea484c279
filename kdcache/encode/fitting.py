"""Fitting an encoder to a mentor: the coarsest levels within a fidelity, and the table of labels.

Fidelity is a largest mean KL(exact || decoded) at each of the temperatures 1, 4 and 12.
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
_FINENESSES = tuple(2.0 ** (n / 2) for n in range(-2, 21))  # levels a unit of s: 0.5 to 1,024
_HALVINGS = 7  # of the interval between two of these, to 0.3% of a fineness
_MENDINGS = 12
_KNEES = (4.0, 7.0, 10.0, 14.0)  # -log p from which coarse levels suffice
_RATIOS = (1.0, 2.0, 3.0, 4.0)  # how much coarser
_SEARCHED = 512  # rows to choose among these by

Make = Callable[[float], Levels]  # by fineness


class UnreachableFidelity(ValueError):
    """An encoder cannot hold these targets within the fidelity; the message has the numbers.

    `nearest`: the smallest divergence that was tried.
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
    every = max(1, len(labels_K) // _SEARCHED)
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
    """The coarsest levels whose divergences stay within the fidelity, and that reach `reach`.

    A divergence falls as levels grow finer, until those that are left for the lowest targets are
    too few; so the first fineness that holds is looked for from the coarse side, on some rows, and
    then mended on all.
    """
    classes = targets_KC.shape[1]
    if classes > MOST_TABLE:
        raise UnreachableFidelity(f"{kind.name} is for at most {MOST_TABLE:,} classes")

    def worst(fine: float, rows: slice) -> float:
        """The largest mean divergence; infinite for levels that do not reach so low."""
        try:
            levels = make(fine)
        except ValueError:
            return inf
        if levels.lowest > reach:
            return inf
        encoder = kind(levels=levels, table=bytes(classes), num_classes=classes)
        stored = encoder.encode(targets_KC[rows], labels_K[rows])
        decoded = encoder.round_trip(stored, labels_K[rows])
        return max(mean_divergences(targets_KC[rows], decoded).values())

    aim = AIM * fidelity
    some = slice(None, None, max(1, len(labels_K) // _SEARCHED))  # they may be sorted by label
    fine, least = _first_within(aim, lambda fine: worst(fine, some))
    for _ in range(_MENDINGS if fine is not None else 0):
        assert fine is not None
        found = worst(fine, slice(None))
        if found <= aim:
            return make(fine)
        least, fine = min(least, found), fine * 1.01
    best = f"the nearest that was tried has {least:.3g}" if least < inf else "none reach so low"
    raise UnreachableFidelity(
        f"{kind.name} has no levels within a mean KL of {fidelity:g} for these targets "
        f"(down to {targets_KC.min(initial=0.0):.4g}; aiming at {AIM:.0%} of it): {best}",
        least,
    )


def _first_within(aim: float, worst: Callable[[float], float]) -> tuple[float | None, float]:
    """The coarsest fineness that holds, None for none; and the least divergence that was seen."""
    seen: dict[float, float] = {}

    def holds(fine: float) -> bool:
        seen[fine] = worst(fine)
        return seen[fine] <= aim

    fine = next((fine for fine in _FINENESSES if holds(fine)), None)
    if fine is None:  # it may hold between two of these, beside the best of them
        nearest = min(seen, key=lambda fine: seen[fine])
        fine = next((f for n in range(-8, 9) if holds(f := nearest * 2.0 ** (n / 16))), None)
    if fine is None:
        return None, min(seen.values())
    below = max((coarser for coarser in seen if coarser < fine), default=fine)
    for _ in range(_HALVINGS if below < fine else 0):
        middle = sqrt(below * fine)
        below, fine = (below, middle) if holds(middle) else (middle, fine)
    return fine, min(seen.values())


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
