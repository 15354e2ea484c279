"""What targets lost, measured apart from the package that lost it: NumPy, float64, every row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = (1, 4, 12)
_ROWS = 1000  # at once: float64 copies of them are all the memory that measuring takes


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Of rows of log-probabilities, exact and decoded.

    `kl`: mean KL(exact || decoded) in nats, by temperature. `p_mean`, `p_max`: mean and largest
    change of p(label); the mean is also the share of knowledge-filter decisions that flip against a
    student of uniformly distributed confidence. `flips`: that share against a given student.
    """

    kl: Mapping[int, float]
    p_mean: float
    p_max: float
    flips: float | None = None

    @property
    def worst(self) -> float:
        """The greatest mean KL of a temperature."""
        return max(self.kl.values())

    def __str__(self) -> str:
        divergences = " / ".join(f"{value:.1e}" for value in self.kl.values())
        return f"KL {divergences}, p(label) off by {self.p_mean:.1e}, at most {self.p_max:.1e}"


def measure_loss(
    exact_NC: NDArray[np.float32],
    decoded_NC: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    student_N: NDArray[np.float64] | None = None,
) -> Loss:
    """`student_N`: a student's probability of each label, for `flips`."""
    kl = dict.fromkeys(TEMPERATURES, 0.0)
    p_N, q_N = np.empty(len(labels_N)), np.empty(len(labels_N))
    for start in range(0, len(labels_N), _ROWS):
        rows = slice(start, start + _ROWS)
        exact, decoded = (a[rows].astype(np.float64) for a in (exact_NC, decoded_NC))
        at = np.arange(len(exact)), labels_N[rows]
        p_N[rows], q_N[rows] = (np.exp(_log_softmax(a)[at]) for a in (exact, decoded))
        for t in TEMPERATURES:
            lp, lq = _log_softmax(exact / t), _log_softmax(decoded / t)
            kl[t] += float((np.exp(lp) * (lp - lq)).sum())
    change_N = np.abs(p_N - q_N)
    flips = None if student_N is None else float(((p_N > student_N) != (q_N > student_N)).mean())
    return Loss(
        kl={t: value / len(labels_N) for t, value in kl.items()},
        p_mean=float(change_N.mean()),
        p_max=float(change_N.max()),
        flips=flips,
    )


def mean_loss(losses: Sequence[Loss]) -> Loss:
    """Means over mentors; the largest change of any."""
    flips = [loss.flips for loss in losses if loss.flips is not None]
    return Loss(
        kl={t: float(np.mean([loss.kl[t] for loss in losses])) for t in TEMPERATURES},
        p_mean=float(np.mean([loss.p_mean for loss in losses])),
        p_max=max(loss.p_max for loss in losses),
        flips=float(np.mean(flips)) if flips else None,
    )


def confidence(
    log_probs_NC: NDArray[np.float32], labels_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """p(label), float64 (N,)."""
    at = np.arange(len(labels_N)), labels_N
    probabilities: NDArray[np.float64] = np.exp(_log_softmax(log_probs_NC.astype(np.float64))[at])
    return probabilities


def _log_softmax(rows_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = rows_NC - rows_NC.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
