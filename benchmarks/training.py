"""Training from the store against labels only and against live mentors, by `train_student` itself.

An epoch's seconds are the record's own: every step with its batches, without evaluation, record
and checkpoint, which are the same for all.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.material import Material, Settings, find_material, mentored_store
from benchmarks.paired import (
    Budget,
    Side,
    interleave,
    ratio,
    require_same,
    spread,
    timed,
)
from benchmarks.steps import BATCH, make_loop
from benchmarks.table import Row, Skipped, milliseconds
from kdcache.classroom import (
    METHODS,
    CrossEntropyLoss,
    LossShapes,
    MentorLoss,
    build_loss,
)
from kdcache.datasets import ImageDataset
from kdcache.loader import Batch, ReplayLoader
from kdcache.mentors import MentorPool
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly
from kdcache.store import TargetStore
from kdcache.stream import TargetStream
from kdcache.train import train_student
from kdcache.train.loop import TrainingLoop

FEATURES = 64  # of the student, for a loss that learns
BUDGETS = {"amtml": 1.15}  # of a step by labels only; the other methods: 1.05
ROUNDS_OF_SMALL_EFFECTS = 3  # a ratio of about 1.01 needs more rounds than one of about 5
CPU = torch.device("cpu")


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """All sides train the same student on the same views in the same order.

    Few steps an epoch: short rounds ride out the machine's drift, and nothing in a step depends on
    how many there are.
    """
    material = find_material(settings)
    dataset = material.open(settings.size(full=512, quick=BATCH))
    store = mentored_store(settings, dataset, material.load_mentors(dataset))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few views go a long way here, on purpose
        experiment = _Experiment(settings, material, dataset, store)
        experiment.require_same_batches()
        yield experiment.store_against_labels()
        yield from experiment.online_against_store()
        yield from experiment.losses()


def _all_steps(loop: TrainingLoop, batches: list[Batch]) -> None:
    for batch in batches:
        loop._step(batch)


class _Experiment:
    """One small training problem, and the ways to get its targets."""

    def __init__(
        self, settings: Settings, material: Material, dataset: ImageDataset, store: TargetStore
    ) -> None:
        self.settings, self.material, self.dataset, self.store = settings, material, dataset, store
        self.pool = MentorPool(
            material.load_mentors(dataset), device=CPU, run_shape=settings.run_shape
        )
        self.mentors = list(material.mentors)
        self.recipe = TargetStream(store, device=CPU).recipe
        self.steps = len(dataset) // BATCH
        self.sizes = f"{self.steps} steps of {BATCH} an epoch; {material}"

    def require_same_batches(self) -> None:
        """The first batch from the store, from live mentors and with labels only."""
        live = OnlineTargets(self.dataset, self.pool, self.recipe)
        stored, online, labels = (
            next(iter(ReplayLoader(self.dataset, source, BATCH, mentors=mentors, device=CPU)))
            for source, mentors in (
                (self.store, self.mentors),
                (live, None),
                (LabelsOnly(self.recipe), None),
            )
        )
        for other in (online, labels):
            require_same(torch.equal(stored.images, other.images), "a batch's images")
            require_same(torch.equal(stored.labels, other.labels), "a batch's labels")
        assert stored.logits is not None
        assert online.logits is not None
        encoder = self.store.mentor(self.mentors[0]).encoder
        bound = torch.from_numpy(encoder.bound(online.logits.numpy()))
        error = (stored.logits.double() - online.logits.double()).abs()
        require_same(bool((error <= bound).all()), "a batch's targets (beyond the encoder's bound)")

    def store_against_labels(self) -> Row:
        """The whole price of training from a store."""
        rounds = self.settings.repeats * self.settings.size(full=ROUNDS_OF_SMALL_EFFECTS, quick=1)
        seconds = interleave(
            {
                "store": self._epochs("store", rounds, method="classroom"),
                "labels": self._epochs("labels", rounds, method="ce"),
            },
            rounds,
        )
        best = {name: milliseconds(min(times) / self.steps) for name, times in seconds.items()}
        return Row(
            what="epoch from the store / epoch with labels only",
            measured=ratio(seconds["store"], seconds["labels"]),
            budget=Budget(limit=1.03, aim=1.01, higher_is_better=False),
            detail=f"best {best['store']} a step against {best['labels']}; {self.sizes}",
        )

    def online_against_store(self) -> Iterator[Row]:
        """What the store saves, against what it could save at most."""
        rounds = self.settings.repeats
        loop = self._loop(CrossEntropyLoss())
        batches = list(loop.loader)
        index_N = self.dataset.index_N[: self.steps * BATCH]
        pixels = self.recipe(self.dataset.images(index_N), index_N, 0)
        checkpoints = {name: str(path) for name, path in self.material.mentors.items()}
        seconds = interleave(
            {
                "online": self._epochs(
                    "online", rounds, method="classroom", targets="online", checkpoints=checkpoints
                ),
                "store": self._epochs("again", rounds, method="classroom"),
                "student": timed(partial(_all_steps, loop, batches)),
                "mentors": timed(lambda: self.pool.run(pixels)),
            },
            rounds,
        )
        saved = [a / b for a, b in zip(seconds["online"], seconds["store"], strict=True)]
        possible = [
            (student + mentors) / student
            for student, mentors in zip(seconds["student"], seconds["mentors"], strict=True)
        ]
        best = {name: milliseconds(min(times) / self.steps) for name, times in seconds.items()}
        yield Row(
            what="(online / store epoch) / ((student + mentors) / student)",
            measured=ratio(saved, possible),
            budget=Budget(limit=0.95, aim=1),
            detail=(
                f"a step at best: online {best['online']}, store {best['store']}; alone: student "
                f"{best['student']} (labels, batches at hand), mentors {best['mentors']}"
            ),
        )
        yield Row(what="  epoch with the mentors online / from the store", measured=spread(saved))
        yield Row(
            what="  (student step + mentor forwards) / student step",
            measured=spread(possible),
            detail=self.sizes,
        )

    def losses(self) -> Iterator[Row]:
        """Each method's loss and gradient by the student's logits, alone, beside a student step."""
        loop = self._loop(CrossEntropyLoss())
        batches = list(loop.loader)
        generator = torch.Generator().manual_seed(0)
        classes, count = self.dataset.num_classes, len(self.mentors)
        student_BC = torch.randn(BATCH, classes, generator=generator, requires_grad=True)
        mentors_BMC = torch.randn(BATCH, count, classes, generator=generator).log_softmax(-1)
        labels_B = torch.randint(classes, (BATCH,), generator=generator)
        features_BF = torch.randn(BATCH, FEATURES, generator=generator, requires_grad=True)
        shapes = LossShapes(num_mentors=count, num_classes=classes, student_features=FEATURES)
        calls = self.settings.size(full=50, quick=2)

        def step(loss: MentorLoss) -> None:
            student_BC.grad = None
            most = loss.needs.most_mentors
            given = {"student_features_BF": features_BF} if loss.needs.student_features else {}
            loss(student_BC, labels_B, mentors_BMC[:, :most], **given).total.backward()  # type: ignore[no-untyped-call]

        losses = {method: build_loss(method, shapes=shapes) for method in METHODS}
        losses = {
            method: loss for method, loss in losses.items() if loss.needs.least_mentors <= count
        }
        sides = {name: timed(partial(step, loss), calls) for name, loss in losses.items()}
        sides["step"] = timed(partial(_all_steps, loop, batches))
        seconds = interleave(sides, self.settings.repeats)
        per_step = [t / self.steps for t in seconds.pop("step")]
        labels = [t / calls for t in seconds.pop("ce")]
        for method, times in seconds.items():
            own = [t / calls for t in times]
            with_it = [s + a - b for s, a, b in zip(per_step, own, labels, strict=True)]
            yield Row(
                what=f"step of {method} / with labels only, computed from the loss timed alone",
                measured=ratio(with_it, per_step),
                budget=Budget(limit=BUDGETS.get(method, 1.05), higher_is_better=False),
                detail=(
                    f"its loss {milliseconds(min(own))}, labels {milliseconds(min(labels))}; "
                    f"student step {milliseconds(min(per_step))}; "
                    f"logits ({BATCH}, {count}, {classes})"
                ),
            )

    def _epochs(self, name: str, rounds: int, **options: Any) -> Side:
        """A side that trains one epoch a call. The last epoch, which is evaluated, never comes."""
        run = train_student(
            student=self.material.student,
            dataset=self.material.dataset,
            data_dir=self.material.data_dir,
            samples=len(self.dataset),
            store=str(self.store.root),
            mentors=tuple(self.mentors),
            epochs=rounds + 10,
            batch_size=BATCH,
            eval_every=rounds + 10,
            device="cpu",
            out=str(self.settings.folder / name),
            **options,
        )
        return lambda: float(next(run)["seconds"])

    def _loop(self, loss: MentorLoss) -> TrainingLoop:
        """The training loop's own step, on labels only; nothing is written."""
        return make_loop(
            self.material,
            self.dataset,
            LabelsOnly(self.recipe),
            loss,
            folder=self.settings.folder / "alone",
            device=CPU,
        )
