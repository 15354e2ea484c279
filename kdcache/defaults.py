"""What a precompute is left to decide: as given, else as the store has it, else a default."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache import homes
from kdcache.calibration import AUTO
from kdcache.datasets import ImageDataset
from kdcache.encode import FITTED, LOGITS, Encoder, TargetKind
from kdcache.encode.logits import stated_divergences
from kdcache.errors import StoreMismatch, UsageError
from kdcache.mentors import RunShape, default_run_shape
from kdcache.store import (
    ArrayLocation,
    Manifest,
    StoredMentor,
    TargetStore,
    is_damaged_store,
    is_store,
    local_path,
    new_manifest,
    open_damaged_store,
    open_store,
    require_equal,
    stated_encoder,
)
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.views import (
    Recipe,
    make_recipe,
    recipe_from_description,
    require_task,
    with_options,
)

DEFAULT_VIEWS = 40


@dataclass(frozen=True, kw_only=True)
class ChosenViews:
    """Which views of a dataset, and their store: `root`, whether or not it exists yet."""

    recipe: Recipe
    manifest: Manifest
    root: Path
    existing: TargetStore | None


def choose_views(
    dataset: ImageDataset,
    store: str | Path | None,
    recipe: Recipe | str | None,
    view_seed: int | None,
    recipe_options: Mapping[str, Any] | None = None,
) -> ChosenViews:
    """As given, else as the store has them, else as `choose_recipe` says.

    `store`: its path; None: under `$KDCACHE_HOME/stores`, named after the views. A store that
    exists may be of other views: `require_same_views`.
    """
    existing = existing_store(local_path(store)) if store is not None else None
    chosen = choose_recipe(recipe, view_seed, existing, dataset, recipe_options or {})
    if existing is None:
        manifest = new_manifest(dataset, chosen)
        root = local_path(store) if store is not None else default_store(manifest)
        existing = existing_store(root, manifest)
    if existing is not None:
        root, manifest = existing.root, existing.manifest
    return ChosenViews(recipe=chosen, manifest=manifest, root=root, existing=existing)


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
    options: Mapping[str, Any],
) -> Recipe:
    """As given; a name takes the dataset's parameters; else the store's, else its default.

    `options`: parameters in place of the dataset's. Raises UsageError for one it does not have.
    """
    if isinstance(given, Recipe):
        if options:
            raise UsageError("recipe_options are for a recipe's name, this is a recipe of its own")
        if view_seed not in (None, given.seed):
            raise UsageError(f"the recipe has the seed {given.seed}, view_seed says {view_seed}")
        return given
    if view_seed is None:
        view_seed = existing.manifest.view_seed if existing else 0
    if given is None and existing is not None:
        stored = recipe_from_description(existing.manifest.recipe, view_seed)
        return with_options(stored, options) if options else stored
    name = given or dataset.default_recipe
    require_task(name, dataset.task)
    recipe = make_recipe(name, seed=view_seed, **dataset.view_parameters)
    return with_options(recipe, options)


def choose_encoder(
    name: str | None, existing: TargetStore | None, mentors: Sequence[str], kind: TargetKind
) -> str:
    """As named; else as these mentors are stored; else as all the store's are; else the kind's."""
    used = {mentor.encoder.name for mentor in _stored(existing, mentors)}
    return name or (used.pop() if len(used) == 1 else kind.default_encoder)


def require_suits(encoder: str, fidelity: float | None, kind: TargetKind) -> None:
    """Raises UsageError for an encoder, or a fidelity, that this kind of targets does not have."""
    known = kind.encoders
    if kind is LOGITS:
        known = (*known, AUTO)
    elif fidelity is not None:
        raise UsageError(f"--fidelity is of log-probabilities; {kind.name} have none. Leave it out")
    if encoder not in known:
        raise UsageError(
            f"{kind.name} are not encoded by {encoder!r}; choose --encoder {', '.join(known)}"
        )


def require_kinds_of(task: str, *, features: bool, keep_logsumexp: bool) -> None:
    """Raises UsageError for kinds of targets that the mentors of a task do not give."""
    if task == POSE and (features or keep_logsumexp):
        option = "--features" if features else "--keep-logsumexp"
        raise UsageError(f"{option} is of classifiers; pose networks give heatmaps. Leave it out")


def stored_encoders(
    name: str | None, existing: TargetStore | None, mentors: Sequence[str]
) -> dict[str, Encoder]:
    """Of these mentors the encoders that a store has already fitted, or chosen, as `name` asks.

    None asks for what there is. Where a mentor's documents are damaged, as what is left of them
    says. Raises StoreMismatch for a mentor that has another one, where `name` is fitted: it would
    be in vain.
    """
    found: dict[str, Encoder] = {}
    for mentor in mentors if existing else ():
        assert existing is not None
        kind = existing.manifest.primary
        array = ArrayLocation(root=existing.root, mentor=mentor, kind=kind.name)
        stated = stated_encoder(array, existing.manifest, kind)
        if stated is not None and name in (None, AUTO, stated.name):
            found[mentor] = stated
        elif stated is not None and name in FITTED:
            require_equal(
                f"mentor {mentor!r}",
                (f"store {existing.root}", {"encoder": stated.name}),
                ("this command", {"encoder": name}),
                "Targets of one mentor must all be made alike: leave --encoder out, or give "
                "another --store",
            )
    return found


def require_kept_fidelity(
    existing: TargetStore | None, mentors: Iterable[str], fidelity: float
) -> None:
    """Raises StoreMismatch where what a store has of these mentors lost more than `fidelity`."""
    wanted = set(mentors)
    for stored in existing.sound_mentors if existing else ():
        sums = [record.error_sums for record in stored.commits.values()]
        worst = max(stated_divergences(stored.kind.combine_error_sums(sums)))
        if stored.manifest.name in wanted and worst > fidelity:
            raise StoreMismatch(
                f"mentor {stored.manifest.name!r} is stored by {stored.encoder.name}, at a mean KL "
                f"of {worst:.3g}; --fidelity asks for {fidelity:g}. Leave --fidelity out to keep "
                "what is there, or give another --store"
            )


def choose_run_shape(
    precision: str | None,
    batch_size: int | None,
    existing: TargetStore | None,
    mentors: Sequence[str],
    *,
    task: str = CLASSIFICATION,
    flip_test: bool | None = None,
) -> RunShape:
    """As given; else as these mentors are stored; else as all the store's mentors are."""
    base = default_run_shape(task)
    shapes = [mentor.manifest.run_shape for mentor in _stored(existing, mentors)]
    if shapes and all(shape == shapes[0] for shape in shapes):
        base = RunShape.from_description(shapes[0])
    return RunShape(
        precision=base.precision if precision is None else precision,
        batch=base.batch if batch_size is None else batch_size,
        memory_format=base.memory_format,
        flip_test=base.flip_test if flip_test is None else flip_test,
    )


def _stored(existing: TargetStore | None, mentors: Sequence[str]) -> list[StoredMentor]:
    """Those of these mentors that a store has; all it has, where it has none of them."""
    sound = existing.sound_mentors if existing else []
    return [stored for stored in sound if stored.manifest.name in mentors] or sound


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
