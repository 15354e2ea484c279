"""Training of poses from a store of heatmaps, against labels only; views, reading, memory, bytes.

All on procedural people (`stick_people`), but for the bytes, which are trained mentors' on real
photographs, where there are both.
"""

import copy
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch

from benchmarks.material import LOADED_VIEWS, Material, Settings
from benchmarks.paired import Budget, Spread, interleave, ratio, require_same, spread, timed
from benchmarks.pose_bytes import measure_bytes
from benchmarks.pose_material import (
    DATASET,
    pointing_maps,
    pointing_store,
    procedural_people,
    stored_bytes,
)
from benchmarks.pose_memory import MemoryRun, memory_above_labels
from benchmarks.steps import epoch_seconds, make_loop
from benchmarks.stick_people import SPLITS
from benchmarks.table import Row, Skipped, milliseconds, number
from kdcache.classroom import MentorLoss, build_loss
from kdcache.datasets import ImageDataset
from kdcache.datasets.photos import PhotoReader
from kdcache.loader import ReplayLoader
from kdcache.memory import gigabytes
from kdcache.resident import ResidentView, checked_files
from kdcache.sources import LabelsOnly, TargetSource
from kdcache.stream import TargetStream
from kdcache.tasks import POSE
from kdcache.train.loop import TrainingLoop
from kdcache.views import PoseAffine

CPU = torch.device("cpu")
MENTORS = 3
STUDENT = "lp18"
PUBLISHED = PoseAffine(height=256, width=192)  # views as networks for COCO are trained on
SMALL = PoseAffine(height=128, width=96)
QUICK = PoseAffine(height=64, width=32)


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Groups of rows by what is measured."""
    dataset = procedural_people(settings, settings.size(full=256, quick=32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few views go a long way here, on purpose
        yield from _views(settings, dataset)
        yield from _Training(settings, dataset).rows()
        yield from _memory(settings, dataset)
    yield from measure_bytes(settings)


def _views(settings: Settings, dataset: ImageDataset) -> Iterator[Row]:
    """What a person's view costs, of photographs in memory, and a photograph's decoding."""
    index_K = dataset.index_N[: settings.size(full=64, quick=8)]
    photos = dataset.images(index_K)
    recipes = (QUICK,) if settings.quick else (SMALL, PUBLISHED)
    sides = {
        f"pose-affine views/s, {recipe.height} x {recipe.width}": timed(
            partial(recipe, photos, index_K, 1)
        )
        for recipe in recipes
    }
    read = _reader(settings, dataset)
    sides["photographs decoded/s"] = timed(partial(read, index_K))
    for what, seconds in interleave(sides, settings.repeats).items():
        yield Row(
            what=what,
            measured=spread([len(index_K) / one for one in seconds]),
            unit=" /s",
            detail=f"{milliseconds(min(seconds) / len(index_K))} each at best; one thread; "
            "photographs of 640 x 480, drawn ones",
        )


class _Training:
    """One student on procedural people, and where its batches come from."""

    def __init__(self, settings: Settings, dataset: ImageDataset) -> None:
        self.settings, self.dataset = settings, dataset
        self.recipe = QUICK if settings.quick else SMALL
        self.batch = settings.size(full=32, quick=16)
        self.store = pointing_store(
            settings.folder / "store", dataset, self.recipe, mentors=MENTORS, views=LOADED_VIEWS
        )
        self.steps = len(dataset) // self.batch
        self.sizes = (
            f"{self.steps} steps of {self.batch} an epoch; {STUDENT} at {self.recipe.height} x "
            f"{self.recipe.width}, Adam; procedural people, {MENTORS} mentors that are moved labels"
        )
        self.labels = LabelsOnly(self.recipe, range(LOADED_VIEWS))
        self.task_loss = build_loss("ce", task=POSE)

    def rows(self) -> Iterator[Row]:
        """The whole price first, then what it is made of."""
        self._require_same_batches()
        yield self._store_against_labels()
        yield from self._reading()
        yield self._ahead()

    def _require_same_batches(self) -> None:
        stored, labels = (
            next(iter(ReplayLoader(self.dataset, source, self.batch, device=CPU)))
            for source in (TargetStream(self.store, device=CPU), self.labels)
        )
        require_same(torch.equal(stored.images, labels.images), "a batch's images")
        require_same(torch.equal(stored.labels, labels.labels), "a batch's labels")
        assert stored.heatmaps is not None
        bound = self.store.mentor(self.store.mentors[0]).encoder.bound
        for mentor in range(MENTORS):
            exact = pointing_maps(self.dataset, self.recipe, stored.index.numpy(), 0, mentor)
            off = np.abs(stored.heatmaps[:, mentor].numpy().astype(np.float64) - exact)
            require_same(bool((off <= bound(exact)).all()), "heatmaps (beyond the bound)")

    def _store_against_labels(self) -> Row:
        """Loading, gathering, decoding and the classroom's loss are all in it."""
        store = self._loop(TargetStream(self.store, device=CPU), build_loss("classroom", task=POSE))
        labels = self._loop(self.labels, self.task_loss)
        seconds = interleave(
            {"store": partial(epoch_seconds, store), "labels": partial(epoch_seconds, labels)},
            self.settings.repeats,
        )
        best = {name: milliseconds(min(times) / self.steps) for name, times in seconds.items()}
        return Row(
            what="pose: epoch from the store / epoch with labels only",
            measured=ratio(seconds["store"], seconds["labels"]),
            budget=Budget(limit=1.05, higher_is_better=False),
            detail=f"best {best['store']} a step against {best['labels']}; {self.sizes}; "
            f"{LOADED_VIEWS} views, so that each epoch loads one",
        )

    def _reading(self) -> Iterator[Row]:
        """Targets and losses alone, beside a step on labels."""
        view = ResidentView(self.store, self.store.mentors, CPU)
        last = self.store.num_views - 1
        view.load(last)
        order = np.random.default_rng(0).permutation(self.dataset.index_N)
        index_B = order[: self.batch]
        heatmaps = view[index_B]
        joints = torch.from_numpy(self.dataset.labels_in_view(self.recipe, index_B, last))
        student = torch.zeros_like(heatmaps[:, 0]).contiguous(memory_format=torch.channels_last)
        student.normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
        losses = {name: build_loss(name, task=POSE) for name in ("ce", "classroom")}
        loop = self._loop(self.labels, self.task_loss)
        batch = next(iter(loop.loader))

        def load() -> None:
            checked_files.clear()
            view.load(last)

        def loss(name: str) -> None:
            student.grad = None
            losses[name](student, joints, heatmaps).total.backward()  # type: ignore[no-untyped-call]

        seconds = interleave(
            {
                "load": timed(load),
                "gather": timed(lambda: view[index_B], calls=10),
                "step": timed(lambda: loop._step(batch)),
                **{name: timed(partial(loss, name), calls=5) for name in losses},
            },
            self.settings.repeats,
        )
        rows = MENTORS * len(self.dataset)
        size = view.num_bytes
        yield Row(
            what="pose: loading a view (read, check, unzstd), rows/s",
            measured=spread([rows / one for one in seconds["load"]]),
            unit=" /s",
            detail=f"{gigabytes(size / min(seconds['load']))}/s of encoded rows at best; "
            f"{gigabytes(size)} of {number(stored_bytes(self.store, self.store.mentors))} bytes a "
            "row on the disk; page cache warm; in the background of an epoch",
        )
        gathering = [one / 10 for one in seconds["gather"]]
        yield Row(
            what="pose: gathering and decoding a batch, rows/s",
            measured=spread([MENTORS * self.batch / one for one in gathering]),
            unit=" /s",
            detail=f"{milliseconds(min(gathering))} for {self.batch} x {MENTORS} maps of "
            f"{tuple(heatmaps.shape[2:])} at best",
        )
        yield Row(
            what="  gathering and decoding / a student's step with labels only",
            measured=ratio(gathering, seconds["step"]),
        )
        more = [(a - b) / 5 for a, b in zip(seconds["classroom"], seconds["ce"], strict=True)]
        yield Row(
            what="  (classroom's loss - the labels') / a student's step with labels only",
            measured=ratio(more, seconds["step"]),
            detail=f"classroom {milliseconds(min(seconds['classroom']) / 5)}, labels "
            f"{milliseconds(min(seconds['ce']) / 5)}, forward and backward; step "
            f"{milliseconds(min(seconds['step']))}",
        )

    def _ahead(self) -> Row:
        """Photographs are never kept here, as where there are more than memory holds."""
        never_kept = copy.copy(self.dataset)
        never_kept._fetch = _reader(self.settings, self.dataset)
        asked = copy.copy(never_kept)
        asked.reads_ahead = 0
        loops = {
            name: self._loop(self.labels, self.task_loss, dataset)
            for name, dataset in (("ahead", never_kept), ("asked", asked))
        }
        seconds = interleave(
            {name: partial(epoch_seconds, loop) for name, loop in loops.items()},
            self.settings.repeats,
        )
        best = {name: milliseconds(min(times) / self.steps) for name, times in seconds.items()}
        return Row(
            what="pose: labels-only epoch, photographs decoded ahead / when asked",
            measured=ratio(seconds["ahead"], seconds["asked"]),
            detail=f"best {best['ahead']} a step against {best['asked']}; "
            f"{never_kept.reads_ahead} threads ahead; no photograph is kept; {self.sizes}",
        )

    def _loop(
        self, source: TargetSource, loss: MentorLoss, dataset: ImageDataset | None = None
    ) -> TrainingLoop:
        material = Material(
            dataset=DATASET,
            data_dir=str(self.settings.folder / "people"),
            student=STUDENT,
            mentors={},
            real=False,
        )
        return make_loop(
            material,
            self.dataset if dataset is None else dataset,
            source,
            loss,
            folder=self.settings.folder / "none",
            device=CPU,
            batch_size=self.batch,
        )


def _memory(settings: Settings, dataset: ImageDataset) -> Iterator[Row | Skipped]:
    """Each in a process of its own, which has nothing from before."""
    recipe = QUICK if settings.quick else PUBLISHED
    block, batch = settings.size(full=32, quick=8), settings.size(full=8, quick=4)
    root = settings.folder / "blocks"
    store = pointing_store(root, dataset, recipe, mentors=MENTORS, views=LOADED_VIEWS, block=block)
    for window in (None, 2 * block):
        run = MemoryRun(
            store=str(root),
            data_dir=str(settings.folder / "people"),
            batch=batch,
            window=window,
        )
        held = f"a window of {window} samples" if window else "whole views"
        what = f"pose: memory for targets, {held} / the stated bound"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(memory_above_labels, run).result()
        if found is None:
            yield Skipped(what=what, why="this kernel does not let us watch the peak")
            continue
        share = found.above / found.bound
        yield Row(
            what=what,
            measured=Spread(median=share, low=share, high=share, n=1),
            budget=Budget(limit=1, higher_is_better=False),
            detail=(
                f"peak resident set {gigabytes(found.above)} above that of the same batches with "
                f"labels only ({gigabytes(found.before)}); bound {gigabytes(found.bound)}, of it "
                f"{gigabytes(found.stream)} for encoded rows, the rest for batches decoded and "
                f"being decoded; {MENTORS} mentors x {store.num_samples} people, batches of "
                f"{batch}, {recipe.height} x {recipe.width}, {store.manifest.num_blocks} blocks"
            ),
        )


def _reader(settings: Settings, dataset: ImageDataset) -> PhotoReader:
    """That decodes each photograph whenever it is asked for."""
    folder = settings.folder / "people" / SPLITS[0]
    return PhotoReader(dataset.person_labels.people, folder, cache_bytes=0)
