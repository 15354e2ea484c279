"""What a precompute will do: how, as given or as the store has it, and which chunks are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache import homes
from kdcache.datasets import ImageDataset
from kdcache.encode import LOGITS, Encoder, find_encoder
from kdcache.errors import UsageError
from kdcache.mentors import RunShape
from kdcache.store import (
    Manifest,
    MentorManifest,
    StoredMentor,
    TargetStore,
    is_intact,
    require_equal,
)
from kdcache.views import Recipe, make_recipe, recipe_from_description

DEFAULT_VIEWS = 40


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
        rows = self.manifest.block_rows(unit.block)
        return len(range(rows.start, rows.stop))

    @property
    def bytes_to_write(self) -> int:
        """Size of the missing chunks' payload."""
        chunk_bytes = self.manifest.block * row_bytes(self.manifest, self.encoder)
        return sum(self.new.values()) * chunk_bytes


def make_plan(
    root: Path,
    manifest: Manifest,
    mentors: Sequence[MentorManifest],
    encoder: Encoder,
    views: int,
    existing: TargetStore | None,
) -> Plan:
    """Compares what is wanted with what `existing` (the store at `root`, if any) has committed.

    Raises StoreMismatch when the store is for other views, or holds one of these mentors from
    another checkpoint, preprocessing, run shape or encoder.
    """
    stored: dict[str, StoredMentor] = {}
    if existing is not None:
        require_same_views(existing, manifest)
        stored = {m.name: existing.mentor(m.name) for m in mentors if m.name in existing.mentors}
        for mentor in mentors:
            if mentor.name in stored:
                require_same_mentor(existing, mentor, encoder)
    chunk_bytes = manifest.block * row_bytes(manifest, encoder)
    units = []
    reused, new = ({mentor.name: 0 for mentor in mentors} for _ in range(2))
    for view in range(views):
        for block in range(manifest.num_blocks):
            lacking = []
            for mentor in mentors:
                present = mentor.name in stored and is_intact(
                    stored[mentor.name], (view, block), chunk_bytes
                )
                (reused if present else new)[mentor.name] += 1
                if not present:
                    lacking.append(mentor.name)
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


def row_bytes(manifest: Manifest, encoder: Encoder) -> int:
    """Stored bytes of one (view, sample, mentor)."""
    return int(np.prod(LOGITS.row_shape(manifest.dataset))) * np.dtype(encoder.dtype).itemsize


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
    stored = store.mentor(wanted.name)
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


def num_views(asked: int | None, recipe: Recipe, existing: TargetStore | None) -> int:
    """How many views to have: as asked, else the store's, else the recipe's, else 40.

    Raises UsageError for more than the recipe has.
    """
    if asked is None:
        return (existing.num_views if existing else 0) or recipe.num_views or DEFAULT_VIEWS
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
    used = {existing.mentor(m).encoder.name for m in existing.mentors} if existing else set()
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
        ours = set(mentors) & set(existing.mentors)
        shapes = [existing.mentor(name).manifest.run_shape for name in ours or existing.mentors]
        if shapes and all(shape == shapes[0] for shape in shapes):
            base = RunShape(**shapes[0])
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
