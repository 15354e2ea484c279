"""Precompute: what a store lacks of the mentors that are asked for, decided and then computed.

What is committed is never computed again; what is missing is (`plan`, `running`).
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.calibration import Calibration, calibrate, needs_calibration, require_fidelity
from kdcache.datasets import ImageDataset, as_image_dataset
from kdcache.defaults import (
    choose_encoder,
    choose_run_shape,
    choose_views,
    existing_store,
    num_views,
    require_kept_fidelity,
    require_kinds_of,
    require_suits,
    stored_encoders,
)
from kdcache.devices import resolve_device
from kdcache.encode import FEATURES, HEATMAPS, KEYPOINTS, LOGSUMEXP, Encoder, find_encoder
from kdcache.errors import UsageError
from kdcache.filling import Progress, fill_store, never
from kdcache.mentors import Mentor, MentorPool, load_mentors
from kdcache.plan import Plan, make_plan
from kdcache.running import MentorRun
from kdcache.store import ChunkKey, Manifest, TargetStore, open_store
from kdcache.views import Recipe
from kdcache.wanted import (
    TargetsKey,
    Wanted,
    present_targets,
    require_same_views,
    wanted_targets,
)


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What a precompute did.

    `stopped`: it was asked to stop before its plan was done. `healed`: damaged or lost documents of
    the store that were made anew.
    """

    store: TargetStore
    stopped: bool
    healed: Sequence[Path]
    num_pixels: int
    seconds: float


class PrecomputeJob:
    """One precompute: made, looked at (`plan`), then run.

    `dataset`: ours or any map-style one. `mentors`: loaded mentors. `store`: its path; None: under
    `$KDCACHE_HOME/stores`, named after the views. `recipe`: a recipe, or the name of one, with the
    parameters that suit the dataset, but for those in `recipe_options`. What is not given is an
    existing store's, else the dataset's recipe (crop-flip, of people pose-affine), view seed 0, 40
    views (or what the recipe has), float16 (heatmaps: heatmap8), fp32, 256 rows a forward pass (64
    of heatmaps), no flip test.

    Log-probabilities are always kept; `features` keeps the pooled features too, `keep_logsumexp`
    each row's logsumexp. Of pose networks heatmaps and keypoints are kept; `flip_test`: each is the
    mean of what they say of the view and of its mirror image. A kind that the store has of one of
    these mentors is kept in step, whether it is asked for or not: healed, and computed for the
    views that are added.

    `encoder`: a name, or "auto": for each mentor the smallest whose mean KL divergence stays within
    `fidelity` at the temperatures 1, 4 and 12 on a calibration part of its targets; `calibrations`
    says what each cost. A name with a `fidelity` is held to it. What the store has of a mentor
    stays encoded as it is. `encoders`: by mentor, of those that the store does not have, to be used
    as they are.

    Raises StoreMismatch when the store at that path is for other views or holds one of these
    mentors from another checkpoint, preprocessing, run shape or encoder; ReplayMismatch when its
    views are other pixels here.
    """

    def __init__(
        self,
        dataset: Any,
        mentors: Sequence[Mentor],
        *,
        store: str | Path | None = None,
        views: int | None = None,
        recipe: Recipe | str | None = None,
        view_seed: int | None = None,
        encoder: str | None = None,
        fidelity: float | None = None,
        device: str | torch.device = "auto",
        precision: str | None = None,
        batch_size: int | None = None,
        features: bool = False,
        keep_logsumexp: bool = False,
        flip_test: bool | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        if not mentors:
            raise UsageError("name at least one mentor")
        require_fidelity(encoder, fidelity)
        self.dataset: ImageDataset = as_image_dataset(dataset)
        require_kinds_of(self.dataset.task, features=features, keep_logsumexp=keep_logsumexp)
        chosen = choose_views(self.dataset, store, recipe, view_seed, recipe_options or {})
        existing, manifest = chosen.existing, chosen.manifest
        self.recipe, self.root = chosen.recipe, chosen.root
        if existing is not None:
            require_same_views(existing, self.dataset, self.recipe)
        self.pool = MentorPool(
            mentors,
            device=resolve_device(str(device)),
            run_shape=choose_run_shape(
                precision,
                batch_size,
                existing,
                [mentor.name for mentor in mentors],
                task=self.dataset.task,
                flip_test=flip_test,
            ),
        )
        self.calibrations: dict[str, Calibration] = {}
        chosen_encoders = self._choose_encoders(encoder, fidelity, existing, encoders or {})
        asked = {
            manifest.primary: True,
            KEYPOINTS: manifest.primary is HEATMAPS,
            FEATURES: features,
            LOGSUMEXP: keep_logsumexp,
        }
        index_1 = self.dataset.index_N[:1]
        wanted = wanted_targets(
            self.pool,
            manifest,
            [kind for kind in asked if asked[kind]],
            chosen_encoders,
            existing,
            self.recipe(self.dataset.images(index_1), index_1, 0),
        )
        self.plan: Plan = self._make_plan(manifest, wanted, existing, views)

    @property
    def warnings(self) -> list[str]:
        """What is odd about these mentors for these views."""
        found = [mentor.of_other_views(self.recipe) for mentor in self.pool.mentors]
        return [warning for warning in found if warning is not None]

    def plan_again(self) -> None:
        """Makes `plan` anew: chunks of what is wanted have come into the store since."""
        existing = existing_store(self.root, self.plan.manifest)
        self.plan = self._make_plan(self.plan.manifest, self.plan.wanted, existing, self.plan.views)

    def _make_plan(
        self,
        manifest: Manifest,
        wanted: Sequence[Wanted],
        existing: TargetStore | None,
        views: int | None,
    ) -> Plan:
        present, there = {}, 0
        if existing is not None:
            present = present_targets(existing, wanted)
            found = [existing.num_views, *(stored.declared_views for stored in present.values())]
            there = max(found)
        return make_plan(self.root, manifest, wanted, num_views(views, self.recipe, there), present)

    def _choose_encoders(
        self,
        asked: str | None,
        fidelity: float | None,
        existing: TargetStore | None,
        given: Mapping[str, Encoder],
    ) -> dict[str, Encoder]:
        """By mentor: as the store has it, else as given, else as asked, calibrated where that takes
        targets."""
        kind = self.pool.primary
        name = choose_encoder(asked, existing, self.pool.names, kind)
        require_suits(name, fidelity, kind)
        require_fidelity(name, fidelity)
        encoders = stored_encoders(asked, existing, self.pool.names)
        if fidelity is not None:
            require_kept_fidelity(existing, encoders, fidelity)
        encoders = {**given, **encoders}
        new = [mentor for mentor in self.pool.names if mentor not in encoders]
        if new and needs_calibration(name, fidelity):
            self.calibrations = calibrate(self.pool, new, self.dataset, self.recipe, name, fidelity)
            chosen = {mentor: one.chosen for mentor, one in self.calibrations.items()}
            return {**encoders, **chosen}
        return {**encoders, **{mentor: find_encoder(name) for mentor in new}}

    def estimated_seconds(
        self, apart_from: Mapping[TargetsKey, Collection[ChunkKey]] | None = None
    ) -> float:
        """How long `run` will take: each mentor timed on one batch, after a warm-up.

        `apart_from`: chunks that will not be computed, by mentor and kind.
        """
        others = {key: set(chunks) for key, chunks in (apart_from or {}).items()}
        index_B = self.dataset.index_N[: self.pool.run_shape.batch]
        pixels = self.recipe(self.dataset.images(index_B), index_B, 0)
        seconds = {}
        for name in self.pool.names:
            self.pool.run(pixels, [name]).cpu()
            started = time.perf_counter()
            self.pool.run(pixels, [name]).cpu()
            seconds[name] = time.perf_counter() - started
        batches = sum(
            self.plan.num_rows(unit) * seconds[name]
            for unit in self.plan.units
            for name in {
                one.mentor.name
                for one in unit.lacking
                if (unit.view, unit.block) not in others.get(one.key, ())
            }
        )
        return batches / len(index_B)

    def run(
        self,
        *,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> PrecomputeResult:
        """Computes and commits what the plan lists; stops between batches when asked to.

        Raises RunFailed for NaN or infinite mentor outputs, a full disk, or a folder that vanished
        or cannot be written. Whatever ends it, every block that was finished is committed.
        """
        started = time.perf_counter()
        run = MentorRun(self.dataset, self.recipe, self.pool, self.plan)
        done, healed = self._fill_store(
            (lambda store: run.fill(store, progress, should_stop)) if self.plan.units else None
        )
        return PrecomputeResult(
            store=open_store(self.root),
            stopped=done < self.plan.num_pixels,
            healed=healed,
            num_pixels=done,
            seconds=time.perf_counter() - started,
        )

    def make_store(self) -> None:
        """Makes the store and its documents where they are not there, and computes nothing."""
        self._fill_store(None)

    def _fill_store(self, fill: Callable[[TargetStore], int] | None) -> tuple[int, list[Path]]:
        return fill_store(
            self.root,
            self.plan.manifest,
            self.dataset,
            self.plan.wanted,
            {one.key: self.plan.views for one in self.plan.wanted},
            self.calibrations.values(),
            fill,
            lambda store: require_same_views(store, self.dataset, self.recipe),
        )


def precompute_targets(
    dataset: Any,
    mentors: Sequence[str | Mentor],
    *,
    checkpoints: Mapping[str, str | Path] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = never,
    **options: Any,
) -> TargetStore:
    """Runs the mentors once over every view the store lacks, and returns the store.

    `mentors`: names (with `checkpoints` by name where they are not in the library) or loaded
    mentors; the other options are `PrecomputeJob`'s. Incremental: calling it again computes only
    what is missing; more views or mentors are added to what is there.
    """
    dataset = as_image_dataset(dataset)
    loaded = [
        m if isinstance(m, Mentor) else load_mentors([m], dataset, checkpoints)[0] for m in mentors
    ]
    job = PrecomputeJob(dataset, loaded, **options)
    return job.run(progress=progress, should_stop=should_stop).store
