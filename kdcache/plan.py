"""What a precompute will do: how, as given or as the store has it, and which chunks are missing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache import homes
from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS, LOGITS, Encoder, find_encoder
from kdcache.errors import DamagedTargets, MissingTargets, StoreMismatch, UsageError
from kdcache.mentors import RunShape
from kdcache.store import (
    METADATA,
    STRANGER,
    ChunkReader,
    Manifest,
    MentorManifest,
    StoredMentor,
    TargetStore,
    chunk_bytes,
    is_damaged_store,
    is_store,
    mentor_array,
    open_damaged_store,
    open_store,
    read_array,
    read_mentor_manifest,
    require_equal,
    require_replay,
    stored_as,
)
from kdcache.versions import library_versions
from kdcache.views import Recipe, make_recipe, recipe_from_description

DEFAULT_VIEWS = 40
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
        _require_same_mentor(store, stored, mentor, encoder)
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
    known = max((view + 1 for view, _ in fitting.commits), default=0)
    return replace(fitting, declared_views=max(views, known))


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


def require_same_mentor(store: TargetStore, wanted: MentorManifest, encoder: Encoder) -> None:
    """Raises StoreMismatch unless the stored mentor is made exactly as the wanted one."""
    _require_same_mentor(store, store.mentor(wanted.name), wanted, encoder)


def _require_same_mentor(
    store: TargetStore, stored: StoredMentor, wanted: MentorManifest, encoder: Encoder
) -> None:
    sides = [
        {**mentor.to_json(), "encoder": encoder_.name}
        for mentor, encoder_ in ((stored.manifest, stored.encoder), (wanted, encoder))
    ]
    require_equal(
        f"mentor {wanted.name!r}",
        (f"store {store.root}", sides[0]),
        ("this command", sides[1]),
        "Targets of one mentor must all be made alike: give the store's options (--checkpoint, "
        "--precision, --batch-size, --encoder), or another --store",
    )


def num_views(asked: int | None, recipe: Recipe, stored: int) -> int:
    """How many views to have: as asked, else as are `stored`, else the recipe's, else 40.

    Raises UsageError for more than the recipe has.
    """
    if asked is None:
        return stored or recipe.num_views or DEFAULT_VIEWS
    most = recipe.num_views
    if asked < 1 or (most is not None and asked > most):
        allowed = "1 and up" if most is None else f"1 to {most}"
        raise UsageError(f"recipe {recipe.name!r} takes --views {allowed}, got {asked}")
    return asked


def choose_recipe(
    given: Recipe | str | None,
    view_seed: int | None,
    existing: TargetStore | None,
    dataset: ImageDataset,
) -> Recipe:
    """As given; a name takes the dataset's parameters; else the store's, else crop-flip."""
    if isinstance(given, Recipe):
        if view_seed not in (None, given.seed):
            raise UsageError(f"the recipe has the seed {given.seed}, view_seed says {view_seed}")
        return given
    if view_seed is None:
        view_seed = existing.manifest.view_seed if existing else 0
    if given is None and existing is not None:
        return recipe_from_description(existing.manifest.recipe, view_seed)
    return make_recipe(given or "crop-flip", seed=view_seed, **dataset.view_parameters)


def choose_encoder(name: str | None, existing: TargetStore | None) -> Encoder:
    """As named; else the one all the store's mentors share; else float16. UsageError if unknown."""
    used = {mentor.encoder.name for mentor in existing.sound_mentors} if existing else set()
    return find_encoder(name or (used.pop() if len(used) == 1 else "float16"))


def choose_run_shape(
    precision: str | None,
    batch_size: int | None,
    existing: TargetStore | None,
    mentors: Sequence[str],
) -> RunShape:
    """As given; else as these mentors are stored; else as all the store's mentors are."""
    base = RunShape()
    if existing is not None:
        sound = existing.sound_mentors
        ours = [mentor for mentor in sound if mentor.manifest.name in mentors]
        shapes = [mentor.manifest.run_shape for mentor in ours or sound]
        if shapes and all(shape == shapes[0] for shape in shapes):
            base = RunShape.from_description(shapes[0])
    return RunShape(
        precision=precision or base.precision,
        batch=batch_size or base.batch,
        memory_format=base.memory_format,
    )


def default_store(manifest: Manifest) -> Path:
    """Where a store of these views lies when no path is given."""
    dataset = manifest.dataset
    name = f"{dataset['name']}-{dataset['split']}-{manifest.recipe['name']}-s{manifest.view_seed}"
    return homes.stores() / f"{name.replace(':', '.')}-{manifest.fingerprint[:12]}"


def existing_store(root: Path, manifest: Manifest | None = None) -> TargetStore | None:
    """The store at `root`; one with a damaged manifest only where another may take its place."""
    if is_store(root):
        return open_store(root)
    if manifest is not None and is_damaged_store(root):
        return open_damaged_store(root, manifest)
    return None
