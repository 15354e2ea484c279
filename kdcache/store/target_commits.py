"""From a mentor's targets to a committed chunk: encode, measure what that cost, commit."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kdcache.encode import LOGITS, TargetKind, as_source
from kdcache.errors import RunFailed
from kdcache.store.chunks import chunk_payload
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.committing import commit_chunk
from kdcache.store.stored_mentor import StoredMentor


def commit_targets(
    stored: StoredMentor,
    key: ChunkKey,
    targets: NDArray[np.float32],
    labels_B: NDArray[np.int64],
    block: int,
    source_sums: Mapping[str, float] | None = None,
) -> CommitRecord:
    """Commits one block's targets (B, *row), of samples with these labels, as a chunk of `block`.

    `source_sums`: where targets were decoded from another store, the error sums that it states of
    them: the record keeps both, since errors add up.

    Raises RunFailed for NaN, infinity, and what the encoder cannot hold within its bound; as
    `commit_chunk` otherwise.
    """
    name, encoder, kind = stored.manifest.name, stored.encoder, stored.kind
    require_finite(targets, name, key[0], kind)
    try:
        encoded = encoder.encode(targets, labels_B)
        payload = chunk_payload(encoded, block, encoder)
    except ValueError as error:
        where = f"mentor {name!r}, view {key[0]}"
        if kind.primary:
            raise RunFailed(
                f"{where}: {error} (into another --store, where targets of this mentor are "
                "committed in this one)"
            ) from error
        raise RunFailed(
            f"{where}, {kind.values}: {error}, for a mentor that is stored already into "
            "another --store" + (f"; or leave {kind.option} out" if kind.option else "")
        ) from error
    sums: dict[str, float] = {}
    if not encoder.exact:
        decoded = encoder.round_trip(encoded, labels_B)
        sums = {**kind.error_sums(targets, decoded, labels_B), **as_source(source_sums or {})}
    return commit_chunk(
        stored.array,
        key,
        payload,
        rows=len(targets),
        correct=kind.num_correct(targets, labels_B),
        error_sums=sums,
        identity=stored.identity,
        encoder=encoder,
    )


def require_finite(
    targets: NDArray[np.float32], mentor: str, view: int, kind: TargetKind = LOGITS
) -> None:
    """Raises RunFailed when a mentor's targets hold NaN or infinity: they would teach nonsense."""
    if not np.isfinite(targets).all():
        bad = int((~np.isfinite(targets.reshape(len(targets), -1)).all(axis=-1)).sum())
        stored = "nothing" if kind.primary else f"no {kind.values}"
        raise RunFailed(
            f"mentor {mentor!r} gave NaN or infinite {kind.values} for {bad} samples of view "
            f"{view}; {stored} of this block was stored. Try --precision fp32, or check the "
            "checkpoint"
        )
