"""Choosing encoders for targets that a store has: as a precompute does, on what the store decodes.

Targets that are not exact are encoded anew only where that loses more than they have lost already.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from kdcache.calibration import Calibration, calibrate_on, calibration_rows
from kdcache.encode import LOGITS, Encoder, has_source
from kdcache.errors import MissingTargets, UsageError
from kdcache.store import StoredMentor, TargetStore, decode_into, healing_command

_NOTHING = 1e-9  # a divergence of rounding alone
REMEDY = "Export from a float32 store, or run `kdcache precompute` with the mentors"


def recalibrate(
    source: TargetStore,
    stored: StoredMentor,
    views: Sequence[int],
    encoder: str,
    fidelity: float | None = None,
) -> Calibration:
    """Chooses the encoder of a mentor's logits by what `source` has of them.

    On the samples of a precompute's calibration, of view 0, or else of the first of `views` that is
    whole. Raises as `calibrate_on`; MissingTargets without a whole view.
    """
    targets_KC, labels_K = _some_targets(source, stored, views)
    return calibrate_on(stored.manifest.name, targets_KC, labels_K, encoder, fidelity)


def require_finer(
    source: TargetStore, stored: StoredMentor, views: Sequence[int], encoder: Encoder
) -> str:
    """What is to be said of targets that `source` does not hold exactly, before `encoder` has them.

    `stored`: its primary ones, logits or heatmaps.

    Raises UsageError where the new store would state less than what they lost: for an exact
    encoder, one that costs less than theirs did (and more than nothing), and targets that have been
    exported so before.
    """
    mentor, lossy = stored.manifest.name, stored.encoder.name
    where = f"{source.address} holds mentor {mentor!r} as {lossy}, which is not exact"
    sums = [record.error_sums for record in stored.commits.values()]
    if any(has_source(of_chunk) for of_chunk in sums):
        raise UsageError(
            f"{where}, and has it from another that was not: what was lost would be stated "
            f"nowhere. {REMEDY}"
        )
    if encoder.exact:
        raise UsageError(f"{where}; as {encoder.name} it would be taken for exact. {REMEDY}")
    targets_KC, labels_K = _some_targets(source, stored, views)
    try:
        decoded = encoder.round_trip(encoder.encode(targets_KC, labels_K), labels_K)
    except ValueError as error:
        raise UsageError(f"mentor {mentor!r}: {error}") from error
    kind = stored.kind
    theirs, ours = (
        kind.cost(kind.combine_error_sums(each))
        for each in (sums, [kind.error_sums(targets_KC, decoded, labels_K)])
    )
    unit = "mean KL" if kind is LOGITS else "mean error, as a share of the peak,"
    if _NOTHING < ours < theirs and encoder == stored.encoder:
        raise UsageError(
            f"{where}, and encoding that anew loses more; to have it as it is, copy it with: "
            "kdcache merge SOURCE DESTINATION"
        )
    if _NOTHING < ours < theirs:
        raise UsageError(
            f"{where}: a {unit} of {theirs:.2g}, more than the {ours:.2g} that {encoder.name} "
            f"costs. {REMEDY}, or take a smaller --encoder"
        )
    return (
        f"{where} (a {unit} of {theirs:.2g}): errors add up; commit records state both, the new "
        f"one against what {lossy} decodes to"
    )


def _some_targets(
    source: TargetStore, stored: StoredMentor, views: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """float32 (K, C) log-probabilities or (K, J, H, W) heatmaps, and the samples' labels."""
    manifest = source.manifest
    whole = [view for view in stored.complete_views(manifest.num_blocks) if view in views]
    if not whole:
        raise MissingTargets(
            f"{source.address} has no whole view of mentor {stored.title!r}, on which to "
            "measure what an encoder costs; finish one with: "
            f"{healing_command(source, [stored.manifest.name])}"
        )
    rows_K = calibration_rows(manifest.num_samples, prod(stored.row_shape))
    targets_KC = np.empty((len(rows_K), *stored.row_shape), dtype=np.float32)
    decode_into(targets_KC, source, stored, whole[0], rows_K)
    return targets_KC, source.labels_N[rows_K]
