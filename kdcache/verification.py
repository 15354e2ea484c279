"""Verify a store against everything at hand: its own checksums, the data, the mentors.

every byte            always                  against the checksums in the store
sampled views         the data is there       replayed, against the replay proof
K rows of each mentor asked for (--recompute) run again, against the decoded targets
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache import philox
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.devices import resolve_device
from kdcache.errors import CheckpointError, DatasetError, KdcacheError, StoreError, UsageError
from kdcache.factories import require_named
from kdcache.mentors import MentorPool, RunShape, load_mentor
from kdcache.online import require_stored_mentor
from kdcache.store import (
    METADATA,
    Damage,
    StoredMentor,
    TargetStore,
    Verification,
    healing_command,
    open_store,
    proven_dataset,
    verify_store,
)
from kdcache.store.verify import Progress

# A forward pass on another device, or beside other library versions, differs by this much, as a
# share of 1 + |log p|; a wrong checkpoint, class order or view is off by whole units.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}


@dataclass(frozen=True, kw_only=True)
class FullVerification(Verification):
    """Also: `replayed` views, `recomputed` rows (K x mentors), and what could not be checked.

    `healing`: the command that computes damaged bytes again; None where none are.
    """

    replayed: int = 0
    recomputed: int = 0
    not_checked: tuple[str, ...] = ()
    healing: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            **asdict(self),
            "damaged": [damage.to_json() for damage in self.damaged],
            "not_checked": list(self.not_checked),
        }


def verify(
    root: str | Path,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    recompute: int = 0,
    checkpoints: Mapping[str, str | Path] | None = None,
    device: str = "auto",
    progress: Progress = lambda done, total: None,
) -> FullVerification:
    """Checks every byte of a store, and all that the data and the mentors at hand can prove.

    `recompute`: rows (view, sample) of each mentor to run again, of its complete views.
    Raises StoreError for what is no store, StoreMismatch for a mentor that is not the store's.
    """
    if recompute < 0:
        raise UsageError(f"--recompute takes a number of rows from 0 up, got {recompute}")
    found = FullVerification(**vars(verify_store(root, progress)))
    found = replace(found, healing=_healing(root, found))
    if any(damage.mentor is None for damage in found.damaged):
        skipped = "the replay of views and the mentors: the store's own documents are damaged"
        return replace(found, not_checked=(skipped,))
    store = open_store(root)
    try:
        images = _dataset_at_hand(store, dataset, data_dir)
    except (DatasetError, UsageError) as error:
        return replace(found, not_checked=(f"the replay of sampled views: {error}",))
    found = _with_replay(found, store, images)
    if not (recompute and found.replayed):
        return found
    for stored in store.sound_mentors:
        found = _with_rows(found, store, stored, images, recompute, checkpoints or {}, device)
    return found


def _healing(root: str | Path, found: Verification) -> str | None:
    if found.ok:
        return None
    try:
        store = open_store(root)
    except StoreError:
        command = shlex.join(["kdcache", "precompute", "--store", str(root)])
        return f"{command}, with the options it was made with"
    hit = {damage.mentor for damage in found.damaged}
    return healing_command(store, [m for m in store.mentors if m in hit or None in hit])


def _dataset_at_hand(
    store: TargetStore, name: str | None, data_dir: str | Path | None
) -> ImageDataset:
    stated: str = store.manifest.dataset["name"]
    name = name or require_named(stated, option="--dataset", origin=f"store {store.root}")
    split = store.manifest.dataset["split"]
    return open_dataset(name, split, data_dir=data_dir, download=False)


def _with_replay(
    found: FullVerification, store: TargetStore, images: ImageDataset
) -> FullVerification:
    """The dataset's content compared, and the sampled views replayed."""
    try:
        proven_dataset(store, images)
    except KdcacheError as error:
        damage = Damage(path=str(store.root / METADATA), reason=str(error))
        return replace(found, damaged=(*found.damaged, damage))
    return replace(found, replayed=len(store.manifest.replay_proof))


def _with_rows(
    found: FullVerification,
    store: TargetStore,
    stored: StoredMentor,
    images: ImageDataset,
    count: int,
    checkpoints: Mapping[str, str | Path],
    device: str,
) -> FullVerification:
    """Rows of one mentor run again, and compared within its encoder's bound."""
    name = stored.manifest.name
    views = stored.complete_views(store.manifest.num_blocks)
    try:
        if name not in checkpoints:
            require_named(name, option="--checkpoint", origin=f"store {store.root}")
        mentor = load_mentor(name, images, checkpoints.get(name))
    except (CheckpointError, UsageError) as error:
        return replace(found, not_checked=(*found.not_checked, f"mentor {name}: {error}"))
    require_stored_mentor(store, mentor)
    if not views:
        return replace(found, not_checked=(*found.not_checked, f"mentor {name}: no whole view"))
    shape = RunShape.from_description(stored.manifest.run_shape)
    pool = MentorPool([mentor], device=resolve_device(device), run_shape=shape)
    damaged = list(found.damaged)
    chosen = _sampled_rows(views, store.index_N, count)
    recipe = store.recipe
    pixels_BCHW = np.concatenate(
        [recipe(images.images(index_1), index_1, view) for view, index_1 in chosen]
    )
    again_BC = pool.run(pixels_BCHW)[:, 0].cpu().numpy()
    for (view, index_1), again in zip(chosen, again_BC, strict=True):
        block = int(store.positions(index_1)[0]) // store.manifest.block
        if any((d.mentor, d.view, d.block) == (name, view, block) for d in found.damaged):
            continue  # told already
        decoded = store.targets(view, index_1, [name])[0, 0]
        allowed = stored.encoder.bound(again) + TOLERANCE[shape.precision] * (1 + np.abs(again))
        off = np.abs(decoded.astype(np.float64) - again)
        if not (off <= allowed).all():
            worst = int((off - allowed).argmax())
            reason = (
                f"sample {index_1[0]}, class {worst}: the store has {decoded[worst]:.4f}, the "
                f"mentor says {again[worst]:.4f}"
            )
            path = str(stored.array.chunk(view, block))
            damaged.append(Damage(mentor=name, view=view, block=block, path=path, reason=reason))
    return replace(found, damaged=tuple(damaged), recomputed=found.recomputed + len(chosen))


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
