"""What a precompute will do: how, as given or as the store has it, and which chunks are missing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache import homes
from kdcache.datasets import ImageDataset
from kdcache.encode import LOGITS, Encoder, find_encoder
from kdcache.errors import DamagedTargets, MissingTargets, UsageError
from kdcache.mentors import RunShape
from kdcache.store import (
    METADATA,
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
    stored_as,
)
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
    reader = ChunkReader(encoder)
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

    Raises StoreMismatch when the store is for other views, or holds one of these mentors from
    another checkpoint, preprocessing, run shape or encoder.
    """
    found = {}
    for mentor in mentors:
        try:
            found[mentor.name] = store.mentor(mentor.name)
        except MissingTargets:
            continue
        except DamagedTargets:
            found[mentor.name] = _despite_damage(store, mentor, encoder)
        _require_same_mentor(store, found[mentor.name], mentor, encoder)
    return found


def _despite_damage(store: TargetStore, mentor: MentorManifest, encoder: Encoder) -> StoredMentor:
    """A mentor with the wanted documents in place of damaged ones.

    Its commit records state what they are records of, so only those of this very mentor count.
    """
    array = mentor_array(store.root, mentor, store.manifest, store.kind)
    views = 0
    with suppress(DamagedTargets):
        mentor = read_mentor_manifest(array.group / METADATA)
    with suppress(DamagedTargets):
        encoder, views = read_array(array, store.manifest, store.kind)
    stored = stored_as(mentor, encoder, views, store.manifest, store.kind, array)
    known = max((view + 1 for view, _ in stored.commits), default=0)
    return replace(stored, declared_views=max(views, known))


def require_same_views(store: TargetStore, wanted: Manifest) -> None:
    """Raises StoreMismatch unless the store holds exactly these views of this dataset."""
    sides = []
    for manifest in (store.manifest, wanted):
        recipe = {f"recipe {key}": value for key, value in manifest.recipe.items()}
        sides.append({**manifest.dataset, **recipe, "view_seed": manifest.view_seed})
    require_equal(
        "what the views are made of",
        (f"store {store.root}", sides[0]),
        ("this command", sides[1]),
        "Give the store's options, or another --store for these views",
    )


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
