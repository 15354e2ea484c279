"""Choosing encoders by what they cost on real targets: the smallest within a fidelity.

A few targets of each mentor are at hand: it is run over some samples of view 0, or another store
has them. Every encoder in question is fitted, where it is one that is, and measured on them: bytes
a row, compressed, and the divergences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache import philox
from kdcache.datasets import ImageDataset
from kdcache.encode import (
    ENCODERS,
    FITTED,
    LOGITS,
    MAP_ENCODERS,
    Encoder,
    UnreachableFidelity,
)
from kdcache.encode.logits import stated_divergences
from kdcache.encode.target_kind import MEASURED_ROWS
from kdcache.errors import UsageError, unknown_name
from kdcache.mentors import MentorPool
from kdcache.store import chunk_payload, require_finite
from kdcache.views import Recipe

AUTO = "auto"
DEFAULT_FIDELITY = 1e-4
LEAST_ROWS = 4096
ROWS_A_CLASS = 8
MOST_NUMBERS = 2**25  # of one mentor's targets: 134 MB


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an encoder cost on a calibration's rows.

    `encoder`: None where it cannot be had, and `reason` says why. `bytes_a_row`: compressed, where
    it compresses. `errors`: mean KL divergences by temperature and errors of p(label), as commit
    records have them; empty for an exact encoder. `reason`: why it cannot be chosen; else None.
    """

    name: str
    encoder: Encoder | None
    bytes_a_row: float
    errors: Mapping[str, float]
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes_a_row": None if self.encoder is None else self.bytes_a_row,
            "errors": dict(self.errors),
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Of one mentor: what was asked for, on how many rows, what each encoder cost, the choice."""

    mentor: str
    fidelity: float
    rows: int
    measured: tuple[Measured, ...]
    chosen: Encoder

    def to_json(self) -> dict[str, Any]:
        """Names and numbers, for people."""
        return {
            "fidelity": self.fidelity,
            "rows": self.rows,
            "measured": {one.name: one.to_json() for one in self.measured},
            "chosen": self.chosen.name,
        }


def require_fidelity(encoder: str | None, fidelity: float | None) -> None:
    """Raises UsageError for an unknown encoder, a fidelity that is none, and 0 of a lossy one."""
    known = [AUTO, *ENCODERS, *FITTED, *MAP_ENCODERS]
    if encoder is not None and encoder not in known:
        raise unknown_name("encoder", encoder, known)
    if fidelity is None:
        return
    if not isinstance(fidelity, int | float) or not 0 <= fidelity < float("inf"):
        raise UsageError(
            f"--fidelity is a mean KL divergence of at least 0, such as 1e-4; got {fidelity}"
        )
    exact = [name for name in ENCODERS if ENCODERS[name].exact]
    if fidelity == 0 and encoder is not None and encoder not in (AUTO, *exact):
        raise UsageError(
            f"--fidelity 0 asks for every bit, which --encoder {encoder} does not keep; "
            f"{', '.join(exact)} does"
        )


def needs_calibration(encoder: str, fidelity: float | None) -> bool:
    """Whether an encoder is only known, or held to a fidelity, once it has seen targets."""
    return encoder == AUTO or encoder in FITTED or fidelity is not None


def calibrate(
    pool: MentorPool,
    names: Sequence[str],
    dataset: ImageDataset,
    recipe: Recipe,
    encoder: str,
    fidelity: float | None = None,
) -> dict[str, Calibration]:
    """Chooses each of these mentors' encoder, by `calibrate_on` what they say of view 0.

    Errors as there.
    """
    index_K = dataset.index_N[calibration_rows(len(dataset), dataset.num_classes)]
    labels_K = dataset.labels(index_K)
    return {
        name: calibrate_on(name, targets_KC, labels_K, encoder, fidelity)
        for name, targets_KC in _targets(pool, names, dataset, recipe, index_K).items()
    }


def calibrate_on(
    mentor: str,
    targets_KC: NDArray[np.float32],
    labels_K: NDArray[np.int64],
    encoder: str,
    fidelity: float | None = None,
) -> Calibration:
    """Chooses a mentor's encoder: `auto`, the smallest within `fidelity`; or that one.

    `targets_KC`: of view 0, of `calibration_rows`. `fidelity`: the largest mean KL(exact ||
    decoded) at each of the temperatures 1, 4 and 12; None: the encoder's own, 1e-4 for `auto`.
    Raises UsageError where none stays within it, with what each cost; RunFailed for NaN and
    infinite outputs.
    """
    wanted = (*ENCODERS, *FITTED) if encoder == AUTO else (encoder,)
    if fidelity is None:
        fidelity = FITTED[encoder].fidelity if encoder in FITTED else DEFAULT_FIDELITY
    require_finite(targets_KC, mentor, view=0)
    measured = tuple(_measure(one, targets_KC, labels_K, fidelity) for one in wanted)
    fitting = [one for one in measured if one.encoder is not None and one.reason is None]
    if not fitting:
        costs = "\n".join(f"  {one.name}: {one.reason}" for one in measured)
        raise UsageError(
            f"mentor {mentor!r}: not within a mean KL of {fidelity:g} on {len(labels_K)} targets:"
            f"\n{costs}\nAsk for another --encoder, or a larger --fidelity"
        )
    smallest = min(fitting, key=lambda one: one.bytes_a_row).encoder
    assert smallest is not None
    return Calibration(
        mentor=mentor,
        fidelity=fidelity,
        rows=len(labels_K),
        measured=measured,
        chosen=smallest,
    )


def worst_divergence(
    pool: MentorPool, name: str, encoder: Encoder, dataset: ImageDataset, recipe: Recipe
) -> float:
    """The largest mean KL divergence, of the three temperatures, that an encoder costs a mentor.

    On the first 1,024 of `calibration_rows`, of view 0; infinite for targets that it cannot hold.
    """
    index_K = dataset.index_N[calibration_rows(len(dataset), dataset.num_classes)[:MEASURED_ROWS]]
    labels_K = dataset.labels(index_K)
    targets_KC = _targets(pool, [name], dataset, recipe, index_K)[name]
    require_finite(targets_KC, name, view=0)
    if encoder.exact:
        return 0.0
    try:
        decoded = encoder.round_trip(encoder.encode(targets_KC, labels_K), labels_K)
    except ValueError:
        return float("inf")
    errors = LOGITS.combine_error_sums([LOGITS.error_sums(targets_KC, decoded, labels_K)])
    return max(stated_divergences(errors))


def calibration_rows(num_samples: int, row: int) -> NDArray[np.int64]:
    """Positions of the samples to calibrate on, the same for every mentor and every run.

    `row`: numbers that a target has; of logits the number of classes.
    """
    count = max(LEAST_ROWS, ROWS_A_CLASS * row)
    count = min(num_samples, count, max(1, MOST_NUMBERS // row))
    order = philox.permutation(0, philox.Purpose.CALIBRATION, 0, num_samples)
    return np.sort(order[:count])


def _targets(
    pool: MentorPool,
    names: Sequence[str],
    dataset: ImageDataset,
    recipe: Recipe,
    index_K: NDArray[np.int64],
) -> dict[str, NDArray[np.float32]]:
    """float32 (K, C) log-probabilities of view 0, by mentor."""
    batches = []
    for start in range(0, len(index_K), pool.run_shape.batch):
        index_B = index_K[start : start + pool.run_shape.batch]
        pixels = recipe(dataset.images(index_B), index_B, 0)
        found = pool.targets(pixels, [(name, LOGITS) for name in names])
        batches.append([rows.cpu() for rows in found])
    each = zip(*batches, strict=True)
    return {n: torch.cat(rows).numpy() for n, rows in zip(names, each, strict=True)}


def _measure(
    name: str, targets_KC: NDArray[np.float32], labels_K: NDArray[np.int64], fidelity: float
) -> Measured:
    encoder = ENCODERS.get(name)
    try:
        if encoder is None:
            if fidelity == 0:
                raise UnreachableFidelity(f"{name} is not exact")
            encoder = FITTED[name].fit(targets_KC, labels_K, fidelity)
        stored = encoder.encode(targets_KC, labels_K)
        payload = chunk_payload(stored, len(stored), encoder)
    except ValueError as error:
        return Measured(
            name=name, encoder=None, bytes_a_row=float("inf"), errors={}, reason=str(error)
        )
    errors: dict[str, float] = {}
    if not encoder.exact:
        decoded = encoder.round_trip(stored, labels_K)
        parts = [slice(k, k + MEASURED_ROWS) for k in range(0, len(labels_K), MEASURED_ROWS)]
        errors = LOGITS.combine_error_sums(  # in parts of which every row is measured
            LOGITS.error_sums(targets_KC[part], decoded[part], labels_K[part]) for part in parts
        )
    worst = max(stated_divergences(errors))
    reason = None if worst <= fidelity else f"a mean KL of {worst:.2g}"
    if fidelity == 0 and not encoder.exact:
        reason = f"{name} is not exact"
    return Measured(
        name=name,
        encoder=encoder,
        bytes_a_row=len(payload) / len(stored),
        errors=errors,
        reason=reason,
    )
