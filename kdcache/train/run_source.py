"""Which views and targets a run trains on: from its store, from live mentors, or labels only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdcache import homes
from kdcache.classroom import Needs
from kdcache.datasets import DEFAULT_DATASET, ImageDataset
from kdcache.defaults import num_views
from kdcache.errors import KdcacheError, UsageError
from kdcache.factories import require_named
from kdcache.mentor_library import require_all_used
from kdcache.mentors import MentorPool, RunShape, default_run_shape, load_mentors
from kdcache.models import short_name
from kdcache.online import OnlineTargets, require_stored_mentor
from kdcache.sources import LabelsOnly, TargetSource
from kdcache.store import TargetStore, is_store, open_store, require_equal
from kdcache.tasks import POSE
from kdcache.train.beginnings import Description, describe_pool, describe_store
from kdcache.train.shared import Shared
from kdcache.train.train_config import TrainConfig
from kdcache.views import Recipe, make_recipe, require_task, with_options


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The resolved config (no view or mentor left to a store's growth), samples, targets.

    `taught_by` says which store and mentors these targets are of, `warnings` what is odd about
    them.
    """

    config: TrainConfig
    train: ImageDataset
    source: TargetSource
    taught_by: Description
    warnings: tuple[str, ...] = ()

    @property
    def feature_widths(self) -> tuple[int, ...] | None:
        """How wide each mentor's pooled features are, where they come along."""
        return getattr(self.source, "feature_widths", None)


def choose_source(
    config: TrainConfig, device: torch.device, needs: Needs, shared: Shared | None = None
) -> Chosen:
    """What the run of this config trains on, with the targets that its loss needs.

    Datasets and streams are the `shared` ones; None: its own.

    Dataset, recipe, view seed, views and mentors come from the store where there is one, for live
    mentors and for labels only too. Raises UsageError for options that contradict it, and
    MissingTargets where a store lacks what the loss needs, naming the command that adds it.
    """
    shared = shared or Shared()
    if config.checkpoints and config.targets == "cache":
        raise UsageError(
            "--checkpoint is for --targets online: from a store no mentor is loaded. Leave it out"
        )
    if config.mentors is not None:
        config = replace(config, mentors=tuple(short_name(name) for name in config.mentors))
    if config.store is None and config.method != "ce" and config.targets == "cache":
        config = replace(config, store=str(_find_store(config)))
    store = None if config.store is None else open_store(config.store)
    if store is not None:
        _require_agreement(config, store)
    if config.dataset is None:
        name = DEFAULT_DATASET if store is None else _dataset_name(store)
        config = replace(config, dataset=name)
    assert config.dataset is not None
    train = shared.dataset(config.dataset, data_dir=config.data_dir)
    if store is None:
        return _without_store(config, train, device, needs)
    return _with_store(config, train, device, store, needs, shared)


def _with_store(
    config: TrainConfig,
    train: ImageDataset,
    device: torch.device,
    store: TargetStore,
    needs: Needs,
    shared: Shared,
) -> Chosen:
    names = tuple(config.mentors or store.mentors)
    if config.targets == "online" and config.mentors is None:
        for name in names:
            require_named(name, option="--mentors", origin=f"store {store.address}")
    wanted = range(config.views) if isinstance(config.views, int) else config.views
    given = {"features": needs.mentor_features, "raw_logits": needs.raw_logits}
    # Live mentors give all of it themselves: the store need have no more than their logits.
    streamed: dict[str, Any] = {}
    if config.targets == "cache":
        streamed = {**given, "window": config.window}
    stream = shared.stream(store, names, device, views=wanted, **streamed)
    chosen = shared.samples(stream, train, config.samples)
    config = replace(
        config,
        store=_lasting_address(store, names),
        mentors=names,
        recipe=stream.recipe.name,
        view_seed=stream.recipe.seed,
        views=_as_count(stream.views),
    )
    config = _with_sides(config, stream.recipe, train.task)
    source: TargetSource = stream
    taught_by = describe_store(store, names, stream.kinds, stream.views)
    if config.method == "ce":
        source = LabelsOnly(stream.recipe, stream.views, blocks=stream.blocks)
        taught_by = describe_store(store, ())
    elif config.targets == "online":
        pool = _live_mentors(config, chosen, device, store)
        taught_by = describe_store(store, names, stream.kinds)
        source = OnlineTargets(
            chosen, pool, stream.recipe, stream.views, blocks=stream.blocks, **given
        )
    warnings = [store.mentor(name).near_chance() for name in source.mentors]
    return Chosen(
        config=config,
        train=chosen,
        source=source,
        taught_by=taught_by,
        warnings=tuple(filter(None, warnings)),
    )


def _without_store(
    config: TrainConfig, train: ImageDataset, device: torch.device, needs: Needs
) -> Chosen:
    name = config.recipe or train.default_recipe
    require_task(name, train.task)
    recipe: Recipe = make_recipe(name, seed=config.view_seed or 0, **train.view_parameters)
    recipe = with_options(recipe, config.recipe_options)
    chosen = train.select(config.samples)
    config = replace(config, recipe=recipe.name, view_seed=recipe.seed, samples=len(chosen))
    config = _with_sides(config, recipe, train.task)
    views = config.views
    if isinstance(views, int):
        views = tuple(range(num_views(views, recipe, stored=0)))
    if config.method == "ce":
        source = LabelsOnly(recipe, views)
        return Chosen(config=config, train=chosen, source=source, taught_by={})
    if not config.mentors:
        raise UsageError("--targets online without --store needs --mentors")
    pool = _live_mentors(config, chosen, device, None)
    return Chosen(
        config=config,
        train=chosen,
        source=OnlineTargets(
            chosen,
            pool,
            recipe,
            views,
            features=needs.mentor_features,
            raw_logits=needs.raw_logits,
        ),
        taught_by=describe_pool(pool),
    )


def _with_sides(config: TrainConfig, recipe: Recipe, task: str) -> TrainConfig:
    """How large people's views are is said, whoever decided it: evaluations need it."""
    if task != POSE:
        return config
    described = recipe.describe()
    sides: dict[str, Any] = {s: described[s] for s in ("height", "width") if s in described}
    return replace(config, recipe_options={**sides, **config.recipe_options})


def _lasting_address(store: TargetStore, mentors: Sequence[str]) -> str:
    """Where these mentors' targets are found, whatever others add to the store."""
    if store.remote is None:
        return str(store.root.resolve())
    return store.remote.address_of(store.mentor(name).identity for name in mentors)


def _dataset_name(store: TargetStore) -> str:
    name: str = store.manifest.dataset["name"]
    return require_named(name, option="--dataset", origin=f"store {store.address}")


def _as_count(views: tuple[int, ...]) -> int | tuple[int, ...]:
    """The first so many views as their number, others as they are."""
    return len(views) if views == tuple(range(len(views))) else views


def _live_mentors(
    config: TrainConfig, dataset: ImageDataset, device: torch.device, store: TargetStore | None
) -> MentorPool:
    """The mentors themselves, proven to be the store's, in the store's run shape."""
    names = config.mentors or ()
    require_all_used(config.checkpoints, names)
    mentors = load_mentors(names, dataset, config.checkpoints)
    if store is None:
        shape = default_run_shape(dataset.task)
        return MentorPool(mentors, device=device, run_shape=shape)
    shapes = []
    for mentor in mentors:
        require_stored_mentor(store, mentor)
        shapes.append(store.mentor(mentor.name).manifest.run_shape)
    if any(shape != shapes[0] for shape in shapes):
        raise UsageError(
            "these mentors were precomputed in different run shapes, so they cannot run online "
            f"together: {dict(zip(names, shapes, strict=True))}; choose some with --mentors"
        )
    return MentorPool(mentors, device=device, run_shape=RunShape.from_description(shapes[0]))


def _require_agreement(config: TrainConfig, store: TargetStore) -> None:
    """Options that the store decides must, where given, say what the store says."""
    manifest = store.manifest
    stated: dict[str, Any] = {
        "dataset": manifest.dataset["name"],
        "split": manifest.dataset["split"],
        "recipe": manifest.recipe["name"],
        "view_seed": manifest.view_seed,
    }
    given = {**{key: getattr(config, key, None) for key in stated}, "split": "train"}
    for name, value in config.recipe_options.items():
        stated[f"recipe {name}"] = manifest.recipe.get(name)
        given[f"recipe {name}"] = value
    require_equal(
        "what the store decides",
        (f"store {store.address}", {key: stated[key] for key in stated if given[key] is not None}),
        ("this command", {key: value for key, value in given.items() if value is not None}),
        "Leave those options out, or name another --store",
    )


def _find_store(config: TrainConfig) -> Path:
    """The one store under `$KDCACHE_HOME/stores` that fits the run. Raises UsageError."""
    config = replace(config, dataset=config.dataset or DEFAULT_DATASET)
    fitting: list[Path] = []
    others: list[Path] = []
    for root in sorted(homes.stores().glob("*")):
        if not is_store(root):
            continue
        try:
            store = open_store(root)
            _require_agreement(config, store)
        except KdcacheError:
            others.append(root)
            continue
        samples = config.samples is None or config.samples <= store.num_samples
        has_mentors = set(config.mentors or ()) <= set(store.mentors) and store.mentors
        (fitting if samples and has_mentors else others).append(root)
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{config.dataset}" + (f" with {', '.join(config.mentors)}" if config.mentors else "")
    if fitting:
        listed = "\n".join(f"  {root}" for root in fitting)
        raise UsageError(f"several stores fit {wanted}; choose one with --store:\n{listed}")
    listed = "\n".join(f"  {root}" for root in others) or "  (none at all)"
    raise UsageError(
        f"no store fits {wanted}. Stores under {homes.stores()}:\n{listed}\nMake one with "
        f"`kdcache precompute --mentors ... --dataset {config.dataset}`, or name one with --store"
    )
