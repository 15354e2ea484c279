"""Verify a store against everything at hand: its own checksums, the data, the mentors.

every byte            always                  against the checksums in the store
sampled views         the data is there       replayed, against the replay proof
K rows of each mentor asked for (--recompute) run again, against the decoded targets
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.errors import (
    CheckpointError,
    DamagedTargets,
    DatasetError,
    ReplayMismatch,
    StoreError,
    StoreMismatch,
    UsageError,
)
from kdcache.factories import require_named
from kdcache.mentors import MentorPool, RunShape, load_mentor
from kdcache.online import require_stored_mentor
from kdcache.row_checks import evidence_of, evidence_shape, unlike
from kdcache.store import (
    METADATA,
    Damage,
    StoredMentor,
    TargetStore,
    Verification,
    dataset_at_hand,
    decode_into,
    healing_command,
    is_elsewhere,
    open_store,
    proven_dataset,
    stored_names,
    verify_store,
)
from kdcache.store.verify import Progress


def verify(
    root: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    recompute: int = 0,
    checkpoints: Mapping[str, str | Path] | None = None,
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> Verification:
    """Checks every byte of a store, and all that the data and the mentors at hand can prove.

    `recompute`: rows (view, sample) of each mentor and kind to run again, of its complete views.
    Raises StoreError for what is no store, StoreMismatch for a dataset that was named and is not
    the store's, UsageError for a checkpoint of no mentor of it.
    """
    if recompute < 0:
        raise UsageError(f"--recompute takes a number of rows from 0 up, got {recompute}")
    found = verify_store(root, progress)
    found = replace(found, healing=_healing(root, found))
    try:
        store = open_store(root)
        given = set(checkpoints or {}) - set(store.mentors)
        if given:
            raise UsageError(
                f"--checkpoint names {', '.join(sorted(given))}, not in {root}; it has "
                f"{', '.join(store.mentors) or 'no mentor'}"
            )
        images = dataset_at_hand(store, dataset, data_dir)
        found = _with_replay(found, store, images)
    except (DatasetError, DamagedTargets) as error:
        return _not_checked(found, f"the replay of sampled views: {error}")
    except StoreMismatch as error:
        if dataset is not None or data_dir is not None:
            raise
        return _not_checked(found, f"the replay of sampled views: {error}")
    except UsageError as error:
        if dataset is not None or checkpoints:
            raise
        return _not_checked(found, f"the replay of sampled views: {error}")
    if not (recompute and found.replayed):
        return found
    for name in {stored.manifest.name: None for stored in store.sound_targets}:
        found = _with_rows(found, store, name, images, recompute, checkpoints or {}, device)
    return found


def _not_checked(found: Verification, what: str) -> Verification:
    return replace(found, not_checked=(*found.not_checked, what))


def _healing(root: str | Path, found: Verification) -> str | None:
    """The command that makes what is damaged anew; None where none can."""
    if found.ok:
        return None
    try:
        store = open_store(root)
    except StoreError:
        if is_elsewhere(root):
            return None
        names = ",".join(stored_names(Path(root))) or "MENTORS"
        command = shlex.join(["kdcache", "precompute", "--store", str(root), "--mentors", names])
        options = "--dataset, --samples, --recipe, --recipe-option, --view-seed"
        return f"{command}  # and {options} as it was made with"
    views = {damage.view for damage in found.damaged if damage.view is not None}
    errors = store.target_errors.items()
    foreign = {name for (name, _), error in errors if not isinstance(error, DamagedTargets)}
    hit = {damage.mentor for damage in found.damaged}
    mentors = [name for name in store.mentors if name in hit and name not in foreign]
    at_hub = store.remote is not None and store.remote.hub is not None
    if None in hit and not (
        mentors or at_hub
    ):  # any one that is sound brings the store's own documents back
        mentors = [stored.manifest.name for stored in store.sound_mentors][:1]
    if not (mentors or at_hub):
        return None
    return healing_command(store, mentors, damaged=True, views=views)


def _with_replay(found: Verification, store: TargetStore, images: ImageDataset) -> Verification:
    """The dataset's content compared, and the sampled views replayed."""
    try:
        proven_dataset(store, images)
    except ReplayMismatch as error:
        damage = Damage(path=store.shown(store.root / METADATA), reason=str(error))
        return replace(found, damaged=(*found.damaged, damage))
    return replace(found, replayed=len(store.manifest.replay_proof))


def _with_rows(
    found: Verification,
    store: TargetStore,
    name: str,
    images: ImageDataset,
    count: int,
    checkpoints: Mapping[str, str | Path],
    device: str,
) -> Verification:
    """Rows of one mentor run again, and compared within the encoder's bound of each kind."""
    of_it = [stored for stored in store.sound_targets if stored.manifest.name == name]
    try:
        if name not in checkpoints:
            require_named(name, option="--checkpoint", origin=f"store {store.address}")
        mentor = load_mentor(name, images, checkpoints.get(name))
        require_stored_mentor(store, mentor)
    except (CheckpointError, UsageError, StoreMismatch) as error:
        return _not_checked(found, f"mentor {name}: {error}")
    shape = RunShape.from_description(of_it[0].manifest.run_shape)
    pool = MentorPool([mentor], device=resolve_device(device), run_shape=shape)
    together: dict[tuple[int, ...], list[StoredMentor]] = {}
    for stored in of_it:
        views = tuple(stored.complete_views(store.manifest.num_blocks))
        together.setdefault(views, []).append(stored)
    for views, kinds in together.items():
        if not views:
            for stored in kinds:
                found = _not_checked(found, f"mentor {stored.title}: no whole view")
            continue
        chosen = _sampled_rows(views, store.index_N, count)
        pixels_BCHW = np.concatenate(
            [store.recipe(images.images(index_1), index_1, view) for view, index_1 in chosen]
        )
        wanted = [(name, evidence_of(stored.kind)) for stored in kinds]
        again = pool.targets(pixels_BCHW, wanted)
        for stored, again_B in zip(kinds, again, strict=True):
            damaged = _unlike(found, store, stored, chosen, again_B.cpu().numpy())
            found = replace(
                found,
                damaged=(*found.damaged, *damaged),
                recomputed=found.recomputed + len(chosen),
            )
    return found


def _unlike(
    found: Verification,
    store: TargetStore,
    stored: StoredMentor,
    chosen: Sequence[tuple[int, NDArray[np.int64]]],
    again_B: NDArray[np.float32],
) -> Iterator[Damage]:
    """Rows that the store has otherwise than the mentor gives them now, (B, *row)."""
    name, kind = stored.manifest.name, stored.kind
    expected = evidence_shape(stored, store.manifest)
    if again_B.shape[1:] != expected:
        reason = f"a row has the shape {expected}, the mentor gives {again_B.shape[1:]}"
        path = store.shown(stored.array.metadata)
        yield Damage(mentor=name, kind=kind.name, path=path, reason=reason)
        return
    told = {(d.mentor, d.kind, d.view, d.block) for d in found.damaged}
    for (view, index_1), again in zip(chosen, again_B, strict=True):
        position_1 = store.positions(index_1)
        block = int(position_1[0]) // store.manifest.block
        if (name, kind.name, view, block) in told:
            continue
        decoded_1 = np.empty((1, *stored.row_shape), dtype=np.float32)
        decode_into(decoded_1, store, stored, view, position_1)
        record = stored.commits[view, block]
        why = unlike(stored, record, int(index_1[0]), decoded_1[0], again)
        if why is not None:
            path = store.shown(stored.array.chunk(view, block))
            yield Damage.of_chunk(stored, (view, block), path, why)


def _sampled_rows(
    views: Sequence[int], index_N: NDArray[np.int64], count: int
) -> list[tuple[int, NDArray[np.int64]]]:
    """`count` Philox-chosen (view, index (1,)) pairs."""
    words = philox.words(0, philox.Purpose.RECOMPUTED_ROWS, np.arange(count))
    chosen = np.asarray(views)[philox.below(words[:, 0], len(views))]
    positions = philox.below(words[:, 1], len(index_N))
    return [
        (int(view), index_N[position : position + 1])
        for view, position in zip(chosen, positions, strict=True)
    ]
