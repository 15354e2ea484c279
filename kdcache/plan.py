"""What a precompute will do: which chunks of which mentors are missing or damaged."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS, LOGITS, Encoder
from kdcache.errors import DamagedTargets, MissingTargets, StoreMismatch, UsageError
from kdcache.store import (
    METADATA,
    STRANGER,
    ChunkReader,
    Manifest,
    MentorManifest,
    StoredMentor,
    TargetStore,
    chunk_bytes,
    mentor_array,
    read_array,
    read_mentor_manifest,
    require_equal,
    require_replay,
    stored_as,
)
from kdcache.versions import library_versions
from kdcache.views import Recipe

MOST_CHUNKS = 2**18  # of one mentor; in blocks of 8,192 samples, two billion forward passes


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One block of one view, and the mentors whose targets it lacks."""

    view: int
    block: int
    mentors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a precompute will do.

    `units`: in the order they run; `reused`, `new`: committed and missing chunks by mentor.
    """

    store: Path
    manifest: Manifest
    encoder: Encoder
    views: int
    units: tuple[Unit, ...]
    reused: Mapping[str, int]
    new: Mapping[str, int]

    @property
    def num_pixels(self) -> int:
        """Views of samples to run mentors over."""
        return sum(map(self.num_rows, self.units))

    def num_rows(self, unit: Unit) -> int:
        """Samples of a unit's block."""
        return self.manifest.num_rows(unit.block)

    @property
    def bytes_to_write(self) -> int:
        """Size of the missing chunks, before compression."""
        return sum(self.new.values()) * chunk_bytes(self.manifest, self.encoder, LOGITS)


def make_plan(
    root: Path,
    manifest: Manifest,
    mentors: Sequence[str],
    encoder: Encoder,
    views: int,
    present: Mapping[str, StoredMentor],
) -> Plan:
    """Which chunks of these mentors are not there, or there and damaged: every byte is read.

    Raises UsageError for more chunks than anyone computes, which a store of others may declare.
    """
    if views * manifest.num_blocks > MOST_CHUNKS:
        raise UsageError(
            f"{views:,} views in {manifest.num_blocks:,} blocks each are more than {MOST_CHUNKS:,} "
            f"chunks a mentor; say with --views how many views {root} is to have"
        )
    reader = ChunkReader(encoder, chunk_bytes(manifest, encoder, LOGITS))
    units = []
    reused, new = (dict.fromkeys(mentors, 0) for _ in range(2))
    for view in range(views):
        for block in range(manifest.num_blocks):
            lacking = []
            for mentor in mentors:
                stored = present.get(mentor)
                committed = stored is not None and (view, block) in stored.commits
                if committed and stored and stored.damage((view, block), reader) is None:
                    reused[mentor] += 1
                else:
                    new[mentor] += 1
                    lacking.append(mentor)
            if lacking:
                units.append(Unit(view=view, block=block, mentors=tuple(lacking)))
    return Plan(
        store=root,
        manifest=manifest,
        encoder=encoder,
        views=views,
        units=tuple(units),
        reused=reused,
        new=new,
    )


def present_mentors(
    store: TargetStore, mentors: Sequence[MentorManifest], encoder: Encoder
) -> dict[str, StoredMentor]:
    """Those of the mentors that the store has; one whose documents are damaged as it must be.

    Every commit record is read by itself: a damaged one is to be healed, even where the index
    knows what it said.

    Raises StoreMismatch when the store is for other views, or holds one of these mentors from
    another checkpoint, preprocessing, run shape or encoder.
    """
    found = {}
    for mentor in mentors:
        try:
            stored = _by_records(store, store.mentor(mentor.name))
        except MissingTargets:
            continue
        except DamagedTargets:
            stored = _despite_damage(store, mentor, encoder)
        require_same_mentor(store, stored, mentor, encoder)
        found[mentor.name] = stored
    return found


def _by_records(store: TargetStore, stored: StoredMentor) -> StoredMentor:
    return stored_as(
        stored.manifest,
        stored.encoder,
        stored.declared_views,
        store.manifest,
        stored.kind,
        stored.array,
        use_index=False,
    )


def _despite_damage(store: TargetStore, mentor: MentorManifest, encoder: Encoder) -> StoredMentor:
    """A mentor whose documents are damaged, as its commit records say that it was.

    Records state the identity of their targets, so this command's mentor is tried with every
    encoder. Raises StoreMismatch when none fits: healing must not replace another mentor.
    """
    array = mentor_array(store.root, mentor, store.manifest, store.kind)
    views, encoders = 0, [encoder, *(e for e in ENCODERS.values() if e != encoder)]
    if (array.group / METADATA).exists():  # it comes after the folder; a kill may come in between
        with suppress(DamagedTargets):
            mentor = read_mentor_manifest(array.group / METADATA)
    with suppress(DamagedTargets):
        stated, views = read_array(array, store.manifest, store.kind)
        encoders = [stated]
    tried = [
        stored_as(mentor, e, views, store.manifest, store.kind, array, use_index=False)
        for e in encoders
    ]
    fitting = next((stored for stored in tried if stored.commits), tried[0])
    strangers = sum(wrong.reason == STRANGER for wrong in fitting.broken)
    if strangers and not fitting.commits:
        raise StoreMismatch(
            f"the documents of mentor {mentor.name!r} in {store.root} are damaged, and its "
            f"{strangers} commit records are not of what this command computes. Give the "
            "options it was made with (--checkpoint, --precision, --batch-size, --encoder), or, to "
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


def require_same_mentor(
    store: TargetStore, stored: StoredMentor, wanted: MentorManifest, encoder: Encoder
) -> None:
    """Raises StoreMismatch unless the stored mentor is made exactly as the wanted one."""
    sides = [
        {**mentor.to_json(), "encoder": encoder_.name}
        for mentor, encoder_ in ((stored.manifest, stored.encoder), (wanted, encoder))
    ]
    require_equal(
        f"mentor {wanted.name!r}",
        (f"store {store.root}", sides[0]),
        ("this command", sides[1]),
        "Targets of one mentor must all be made alike: give the store's options (--checkpoint, "
        "--precision, --batch-size, --encoder), or another --store"
        + ("" if stored.commits else f"; or remove {stored.array.group}, which holds none yet"),
    )
