"""Precompute: run the mentors once over what a store lacks, and commit it block by block.

    dataset -> view -> mentors (all over one batch) -> encode -> commit
               main thread                             writer's thread

What is committed is never computed again; what is missing is.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.calibration import Calibration, calibrate, needs_calibration, require_fidelity
from kdcache.datasets import ImageDataset, as_image_dataset
from kdcache.defaults import (
    choose_encoder,
    choose_recipe,
    choose_run_shape,
    default_store,
    existing_store,
    num_views,
    stored_encoders,
)
from kdcache.devices import resolve_device
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP, Encoder, find_encoder
from kdcache.errors import RunFailed, StoreError, UsageError
from kdcache.mentors import Mentor, MentorPool, load_mentors
from kdcache.plan import Plan, Unit, make_plan
from kdcache.store import (
    TargetStore,
    commit_targets,
    ensure_mentor,
    ensure_store,
    explained,
    forget_unused,
    gather_commits,
    keep_what_is_there,
    local_path,
    new_manifest,
    open_store,
    remove_leftovers,
    withdraw_strays,
    write_calibration,
    writing,
)
from kdcache.views import Recipe
from kdcache.wanted import (
    present_targets,
    require_same_targets,
    require_same_views,
    wanted_targets,
)

MOST_BLOCKS_IN_FLIGHT = 2
Progress = Callable[[int, int], None]  # (views of samples done, all of them)


def _never() -> bool:
    return False


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
    parameters that suit the dataset. What is not given is an existing store's, else crop-flip,
    view seed 0, 40 views (or what the recipe has), float16, fp32, 256 rows a forward pass.

    Log-probabilities are always kept; `features` keeps the pooled features too, `keep_logsumexp`
    each row's logsumexp. A kind that the store has of one of these mentors is kept in step,
    whether it is asked for or not: healed, and computed for the views that are added.

    `encoder`: a name, or "auto": for each mentor the smallest whose mean KL divergence stays within
    `fidelity` at the temperatures 1, 4 and 12 on a calibration part of its targets; `calibrations`
    says what each cost. A name with a `fidelity` is held to it. What the store has of a mentor
    stays encoded as it is.

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
    ) -> None:
        if not mentors:
            raise UsageError("name at least one mentor")
        require_fidelity(encoder, fidelity)
        self.dataset: ImageDataset = as_image_dataset(dataset)
        existing = existing_store(local_path(store)) if store is not None else None
        self.recipe = choose_recipe(recipe, view_seed, existing, self.dataset)
        if existing is None:
            manifest = new_manifest(self.dataset, self.recipe)
            self.root = local_path(store) if store is not None else default_store(manifest)
            existing = existing_store(self.root, manifest)
        if existing is not None:
            require_same_views(existing, self.dataset, self.recipe)
            self.root, manifest = existing.root, existing.manifest
        self.pool = MentorPool(
            mentors,
            device=resolve_device(str(device)),
            run_shape=choose_run_shape(
                precision, batch_size, existing, [mentor.name for mentor in mentors]
            ),
        )
        self.calibrations: dict[str, Calibration] = {}
        encoders = self._choose_encoders(encoder, fidelity, existing)
        asked = {LOGITS: True, FEATURES: features, LOGSUMEXP: keep_logsumexp}
        index_1 = self.dataset.index_N[:1]
        wanted = wanted_targets(
            self.pool,
            manifest,
            [kind for kind in asked if asked[kind]],
            encoders,
            existing,
            self.recipe(self.dataset.images(index_1), index_1, 0),
        )
        present, there = {}, 0
        if existing is not None:
            present = present_targets(existing, wanted)
            found = [existing.num_views, *(stored.declared_views for stored in present.values())]
            there = max(found)
        self.plan: Plan = make_plan(
            self.root, manifest, wanted, num_views(views, self.recipe, there), present
        )

    def _choose_encoders(
        self, asked: str | None, fidelity: float | None, existing: TargetStore | None
    ) -> dict[str, Encoder]:
        """By mentor: as the store has it, else as asked, calibrated where that takes targets."""
        name = choose_encoder(asked, existing, self.pool.names)
        require_fidelity(name, fidelity)
        encoders = stored_encoders(name, existing, self.pool.names)
        new = [mentor for mentor in self.pool.names if mentor not in encoders]
        if new and needs_calibration(name, fidelity):
            self.calibrations = calibrate(self.pool, new, self.dataset, self.recipe, name, fidelity)
            chosen = {mentor: one.chosen for mentor, one in self.calibrations.items()}
            return {**encoders, **chosen}
        return {**encoders, **{mentor: find_encoder(name) for mentor in new}}

    def estimated_seconds(self) -> float:
        """How long `run` will take: each mentor timed on one batch, after a warm-up."""
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
            for name in unit.mentors
        )
        return batches / len(index_B)

    def run(
        self,
        *,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = _never,
    ) -> PrecomputeResult:
        """Computes and commits what the plan lists; stops between batches when asked to.

        Raises RunFailed for NaN or infinite mentor outputs, a full disk, or a folder that vanished
        or cannot be written. Whatever ends it, every block that was finished is committed.
        """
        started = time.perf_counter()
        with explained(self.root):
            healed = ensure_store(self.root, self.plan.manifest, self.dataset)
            if self.plan.units:
                with writing(self.root) as is_alone:
                    store, more = self._prepare_mentors()
                    try:
                        done = self._fill(store, progress, should_stop)
                    except (RunFailed, UsageError):  # the next try may be with other options
                        for one in reversed(self.plan.wanted):
                            forget_unused(store.mentor(*one.key).array, is_alone)
                        raise
            else:
                store, more = self._prepare_mentors()
                done = 0
                self._tidy()
                remove_leftovers(self.root)
        return PrecomputeResult(
            store=open_store(self.root),
            stopped=done < self.plan.num_pixels,
            healed=[*healed, *more],
            num_pixels=done,
            seconds=time.perf_counter() - started,
        )

    def _fill(
        self, store: TargetStore, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> int:
        """Computes and commits unit by unit; how many pixels the mentors were run over."""
        commits: deque[Future[None]] = deque()
        done = 0
        with ThreadPoolExecutor(1, thread_name_prefix="kdcache-commit") as writer:
            try:
                for unit, batches in self._run_mentors(progress, should_stop):
                    while len(commits) >= MOST_BLOCKS_IN_FLIGHT:
                        commits.popleft().result()
                    commits.append(writer.submit(self._commit, store, unit, batches))
                    done += sum(len(batch[0]) for batch in batches)
                while commits:
                    commits.popleft().result()
            finally:
                writer.shutdown()
                self._tidy()
        return done

    def _run_mentors(
        self, progress: Progress | None, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Unit, list[list[torch.Tensor]]]]:
        """Each unit with its targets, still on the device: a batch has a tensor (B, *row) for each
        of those that the unit lacks."""
        done = 0
        for unit in self.plan.units:
            index = self.dataset.index_N[self.plan.manifest.block_rows(unit.block)]
            batches = []
            for start in range(0, len(index), self.pool.run_shape.batch):
                if should_stop():
                    return
                index_B = index[start : start + self.pool.run_shape.batch]
                pixels = self.recipe(self.dataset.images(index_B), index_B, unit.view)
                lacking = [(one.mentor.name, one.kind) for one in unit.lacking]
                batches.append(self.pool.targets(pixels, lacking))
                done += len(index_B)
                if progress is not None:
                    progress(done, self.plan.num_pixels)
            yield unit, batches

    def _commit(self, store: TargetStore, unit: Unit, batches: list[list[torch.Tensor]]) -> None:
        """Runs on the writer's thread: fetch from the device, encode, measure, commit."""
        rows = self.plan.manifest.block_rows(unit.block)
        labels = self.dataset.labels(self.dataset.index_N[rows])
        key = (unit.view, unit.block)
        for one, targets_B in zip(unit.lacking, zip(*batches, strict=True), strict=True):
            targets = torch.cat(targets_B).cpu().numpy()
            commit_targets(store.mentor(*one.key), key, targets, labels, self.plan.manifest.block)

    def _prepare_mentors(self) -> tuple[TargetStore, list[Path]]:
        """The store, with room for every planned chunk; and which documents it had to heal."""
        healed: list[Path] = []
        store = open_store(self.root)
        if store.manifest != self.plan.manifest:  # another writer was first
            require_same_views(store, self.dataset, self.recipe)
        for one in self.plan.wanted:
            healed += ensure_mentor(
                self.root, store.manifest, one.mentor, one.encoder, one.kind, self.plan.views,
                one.width,
            )  # fmt: skip
        for calibration in self.calibrations.values():
            write_calibration(self.root, calibration.mentor, calibration.to_json())
        store = open_store(self.root)
        for one in self.plan.wanted:  # another writer may have been first
            require_same_targets(store, store.mentor(*one.key), one)
        keep_what_is_there(self.root, [store.mentor(*one.key).array for one in self.plan.wanted])
        return store, healed

    def _tidy(self) -> None:
        """Gathers the commits, and removes records that no chunk will ever need."""
        with suppress(OSError, StoreError):  # only an aid, and another error may be on its way
            store = open_store(self.root)
            for stored in [store.mentor(*one.key) for one in self.plan.wanted]:
                withdraw_strays(stored, store.manifest)
                gather_commits(stored.array, stored.identity)


def precompute_targets(
    dataset: Any,
    mentors: Sequence[str | Mentor],
    *,
    checkpoints: Mapping[str, str | Path] | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = _never,
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
