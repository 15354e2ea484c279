"""What a precompute wants of a store, and what of exactly that is there."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.encode import FITTED, HEATMAPS, KEYPOINTS, KINDS, Encoder, TargetKind, find_encoder
from kdcache.errors import DamagedTargets, MissingTargets, StoreMismatch
from kdcache.mentors import MentorPool
from kdcache.store import (
    METADATA,
    STRANGER,
    Manifest,
    MentorManifest,
    StoredMentor,
    TargetStore,
    chunk_bytes,
    mentor_array,
    read_array,
    read_mentor_manifest,
    read_spare_encoder,
    require_equal,
    require_replay,
    stored_as,
    title,
)
from kdcache.versions import library_versions
from kdcache.views import Recipe

TargetsKey = tuple[str, str]  # names of a mentor and a kind


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One mentor's targets of one kind, and how they are to be stored.

    `width`: of a row, where it is the network's to say; None else.
    """

    mentor: MentorManifest
    kind: TargetKind
    encoder: Encoder
    width: int | None = None

    @property
    def key(self) -> TargetsKey:
        return self.mentor.name, self.kind.name

    @property
    def title(self) -> str:
        return title(self.mentor.name, self.kind)

    def row_shape(self, manifest: Manifest) -> tuple[int, ...]:
        return self.kind.row_shape(manifest.described, self.width)

    def chunk_bytes(self, manifest: Manifest) -> int:
        """Bytes of one whole chunk before compression."""
        return chunk_bytes(manifest, self.encoder, self.row_shape(manifest))


def wanted_targets(
    pool: MentorPool,
    manifest: Manifest,
    asked: Collection[TargetKind],
    logits: Mapping[str, Encoder],
    existing: TargetStore | None,
    pixels_1CHW: NDArray[np.uint8],
) -> list[Wanted]:
    """Of each mentor the kinds that are asked for, and those that the store has of it.

    So a mentor's kinds are kept in step: whoever heals one, or adds views, does it for all. Logits
    come first. `logits`: their encoder, by mentor. `pixels_1CHW`: any view of one sample.

    Raises UsageError for a network that has no features where they are wanted.
    """
    wanted = []
    for mentor in pool.mentors:
        described = MentorManifest(
            fingerprint=manifest.fingerprint,
            **mentor.identity(),
            run_shape=pool.run_shape.describe(),
        )
        present = existing.kinds(mentor.name) if existing is not None else ()
        for kind in KINDS.values():
            if kind in asked or kind.name in present:
                encoder = encoder_of(kind, logits[mentor.name])
                width = pool.feature_width(mentor.name, pixels_1CHW) if kind.from_features else None
                wanted.append(Wanted(mentor=described, kind=kind, encoder=encoder, width=width))
    return wanted


def encoder_of(kind: TargetKind, logits: Encoder) -> Encoder:
    """That of a kind, beside logits that are encoded so."""
    name = kind.encoder_beside(logits)
    return logits if name == logits.name else find_encoder(name)


def present_targets(store: TargetStore, wanted: Sequence[Wanted]) -> dict[TargetsKey, StoredMentor]:
    """Those that the store has; where documents are damaged, as they must have been.

    Every commit record is read by itself: a damaged one is to be healed, even where the index
    knows what it said.

    Raises StoreMismatch when the store is for other views, or holds one of these mentors from
    another checkpoint, preprocessing, run shape or encoder.
    """
    found = {}
    for one in wanted:
        try:
            stored = _by_records(store, store.mentor(*one.key))
        except MissingTargets:
            continue
        except DamagedTargets:
            stored = _despite_damage(store, one)
        require_same_targets(store, stored, one)
        found[one.key] = stored
    return found


def _by_records(store: TargetStore, stored: StoredMentor) -> StoredMentor:
    return stored_as(
        stored.manifest,
        stored.encoder,
        stored.row_shape,
        stored.declared_views,
        store.manifest,
        stored.kind,
        stored.array,
        use_index=False,
    )


def _despite_damage(store: TargetStore, wanted: Wanted) -> StoredMentor:
    """Targets whose documents are damaged, as their commit records say that they were.

    Records state the identity of their targets, so this command's mentor is tried with every
    encoder. Raises StoreMismatch when none fits: healing must not replace another mentor.
    """
    mentor, kind = wanted.mentor, wanted.kind
    array = mentor_array(store.root, mentor, kind)
    views, row_shape = 0, wanted.row_shape(store.manifest)
    others = (find_encoder(name) for name in kind.encoders if name not in FITTED)
    encoders = [wanted.encoder, *(encoder for encoder in others if encoder != wanted.encoder)]
    if (spare := read_spare_encoder(array, store.manifest, kind)) is not None:
        encoders.append(spare)
    if (array.group / METADATA).exists():  # it comes after the folder; a kill may come in between
        with suppress(DamagedTargets):
            mentor = read_mentor_manifest(array.group / METADATA)
    with suppress(DamagedTargets):
        stated, row_shape, views = read_array(array, store.manifest, kind)
        encoders = [stated]
    tried = [
        stored_as(mentor, e, row_shape, views, store.manifest, kind, array, use_index=False)
        for e in encoders
    ]
    fitting = next((stored for stored in tried if stored.commits), tried[0])
    strangers = sum(wrong.reason == STRANGER for wrong in fitting.broken)
    if strangers and not fitting.commits:
        raise StoreMismatch(
            f"the documents of mentor {wanted.title!r} in {store.root} are damaged, and its "
            f"{strangers} commit records are not of what this command computes. Give the "
            "options it was made with (--checkpoint, --precision, --batch-size, --encoder, "
            "--fidelity; what is fitted anew is the same only on the same kind of machine), or, to "
            f"compute it anew, remove {array.group}"
        )
    return replace(fitting, declared_views=max(views, fitting.committed_views))


def require_same_views(store: TargetStore, dataset: ImageDataset, recipe: Recipe) -> None:
    """Raises StoreMismatch unless the store holds exactly these views of this dataset.

    And ReplayMismatch where these libraries make other pixels of them than those that wrote it.
    """
    manifest = store.manifest
    sides = [
        {**identity, **{f"recipe {key}": described[key] for key in described}, "view_seed": seed}
        for identity, described, seed in (
            (manifest.dataset, manifest.recipe, manifest.view_seed),
            (dataset.identity(), recipe.describe(), recipe.seed),
        )
    ]
    require_equal(
        "what the views are made of",
        (f"store {store.root}", sides[0]),
        ("this command", sides[1]),
        "Give the store's options, or another --store for these views",
    )
    require_replay(manifest.replay_proof, dataset, recipe, manifest.written_by, library_versions())


def require_same_targets(store: TargetStore, stored: StoredMentor, wanted: Wanted) -> None:
    """Raises StoreMismatch unless stored targets are made exactly as the wanted ones."""
    sides = [
        {**mentor.to_json(), "encoder": encoder.name, "row": row_shape}
        for mentor, encoder, row_shape in (
            (stored.manifest, stored.encoder, stored.row_shape),
            (wanted.mentor, wanted.encoder, wanted.row_shape(store.manifest)),
        )
    ]
    require_equal(
        f"mentor {wanted.title!r}",
        (f"store {store.root}", sides[0]),
        ("this command", sides[1]),
        "Targets of one mentor must all be made alike: give the store's options (--checkpoint, "
        "--precision, --batch-size, --encoder"
        + (", --flip-test" if wanted.kind in (HEATMAPS, KEYPOINTS) else "")
        + "), or another --store"
        + ("" if stored.commits else f"; or remove {stored.array.group}, which holds none yet"),
    )
