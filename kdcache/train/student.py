"""Training a student: from a config to its data, targets, loss and loop."""

import copy
import dataclasses
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.checkpoints import save_weights
from kdcache.classroom import LossShapes, MentorLoss, Needs, build_loss, build_method
from kdcache.devices import resolve_device
from kdcache.errors import StoreError, UsageError
from kdcache.heatmaps import QUARTER
from kdcache.loader import ReplayLoader
from kdcache.models import OUTPUTS, build_network, checked_forward, long_name, require_output
from kdcache.models.pooled_features import FeatureTap
from kdcache.store import is_elsewhere, local_path
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.train.beginnings import describe_samples, running_environment, tell_changes
from kdcache.train.compiling import require_compiler
from kdcache.train.evaluation import POSE_ALONE, make_evaluator
from kdcache.train.loop import Progress, TrainingLoop
from kdcache.train.run_folder import RunFolder, run_identity
from kdcache.train.run_source import Chosen, choose_source
from kdcache.train.shared import Shared
from kdcache.train.task_defaults import task_of, with_defaults
from kdcache.train.train_config import TrainConfig


def train_student(
    config: TrainConfig | None = None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Generator[dict[str, Any], None, None]:
    """Trains one student and yields a record an epoch; options are `TrainConfig`'s fields.

    Without a config, options that are not given are the task's (`task_defaults`).

    A run folder with an unfinished run of the same config is gone on with, exactly as if it had
    never stopped; a finished one yields nothing. `notify` hears of that, and of an environment
    that is another one (library versions, device, threads); `progress` of each epoch's steps.

    Everything is checked before the first step: UsageError, StoreMismatch, MissingTargets,
    ReplayMismatch, CheckpointError, DatasetError. While running: Stopped, RunFailed,
    DamagedTargets.
    """
    given = TrainConfig(**with_defaults(options)) if config is None else replace(config, **options)
    run = StudentRun(given, Shared(), notify)
    with run.begun():
        yield from run.records(should_stop, progress)


class StudentRun:
    """One run: checked when it is made, begun once, then an epoch at a time.

    `shared`: datasets and streams, which other runs may use too. Errors as `train_student`'s.
    """

    def __init__(self, given: TrainConfig, shared: Shared, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._folder = folder = RunFolder(Path(given.run_folder))
        config = folder.adopt(given)
        _require_store_in_place(given, config, folder)
        self._device = device = resolve_device(config.device)
        task = task_of(config.dataset, config.store)
        needs = build_method(config.method, task=task, **config.switches).needs
        if needs.mentor_order and config.mentors is None:
            raise UsageError(
                f"method {config.method!r} with these switches counts positions in --mentors, and "
                "a store has an order of its own: name the mentors too, in the order you mean"
            )
        if config.compile:
            require_compiler(device)
            if needs.student_features:
                raise UsageError(
                    f"method {config.method!r} takes the student's pooled features out of its "
                    "forward pass, which --compile makes one piece of; leave --compile out"
                )
        require_output(
            f"student {config.student!r}",
            config.student,
            OUTPUTS[task],
            remedy="Choose another --student",
        )
        if config.per_class and task != CLASSIFICATION:
            raise UsageError("--per-class tells of classes; people have none. Leave it out")
        if task == CLASSIFICATION and (config.flip_test or config.decoder != QUARTER):
            raise UsageError(POSE_ALONE)
        self._chosen = chosen = choose_source(config, device, needs, shared)
        self.config, train, source = chosen.config, chosen.train, chosen.source
        config = self.config
        self._test = shared.dataset(train.name, "test", data_dir=config.data_dir)
        self._loader = ReplayLoader(
            train,
            source,
            config.batch_size,
            seed=config.seed,
            device=device,
            window=config.window,
        )
        self._network = build_network(config.student, train.num_classes, seed=config.seed)
        self._loss = _suitable_loss(self._network, config, needs, chosen)
        self._loop: TrainingLoop | None = None

    @property
    def epochs_done(self) -> int:
        """How many epochs are behind."""
        return 0 if self._loop is None else self._loop.epochs_done

    @property
    def finished(self) -> bool:
        """Whether no epoch is left; the student may still be to be saved."""
        return self.epochs_done == self.config.epochs

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Holds the run folder, and stands where a run that is there stopped."""
        config, chosen, folder = self.config, self._chosen, self._folder
        with folder.alone():
            environment = running_environment(self._device)
            trained_on = folder.comparable(
                {**describe_samples(chosen.train, self._test), **chosen.taught_by}
            )
            began = folder.claim(config, environment, trained_on)
            self._loop = loop = TrainingLoop(
                config,
                network=self._network,
                loader=self._loader,
                loss=self._loss,
                evaluator=make_evaluator(self._test, config, chosen.source.recipe),
                folder=folder,
                identity=run_identity(config, trained_on),
            )
            state = folder.load_checkpoint()
            if state is None:
                for images in (chosen.train, self._test):
                    for line in images.report:
                        self._notify(f"{images.name} ({images.split}): {line}")
                for warning in chosen.warnings:
                    self._notify(f"warning: {warning}")
            else:
                tell_changes(began, environment, self._notify)
                loop.restore(state)
            # The checkpoint knows them all: what else is there is an epoch that will run again.
            folder.replace_records(loop.records)
            if state is not None and not self.finished:
                self._notify(
                    f"going on in {folder.root} after {self.epochs_done} of {config.epochs} epochs"
                )
            yield

    def records(
        self, should_stop: Callable[[], bool], progress: Progress
    ) -> Iterator[dict[str, Any]]:
        """Trains the epochs that are left, a record each; after the last the student is saved."""
        loop, folder = self._loop, self._folder
        assert loop is not None, "a run has begun before it has records"
        nothing_left = self.finished
        yield from loop.run(should_stop, progress)
        as_it_was = folder.student.read_bytes() if folder.student.is_file() else None
        metadata = _student_metadata(self.config, self._chosen)
        save_weights(folder.student, loop.network, metadata)
        if nothing_left:
            self._notify(
                f"{folder.root} is finished: nothing is left to do"
                if folder.student.read_bytes() == as_it_was
                else f"{folder.root} is finished; {folder.student.name} was missing or not what "
                "was trained, and is written again"
            )


def _require_store_in_place(given: TrainConfig, config: TrainConfig, folder: RunFolder) -> None:
    """The store that the run in the folder began with must still be where it was."""
    if given.store is not None or not config.store or is_elsewhere(config.store):
        return
    if not local_path(config.store).exists():
        raise StoreError(
            f"{folder.root} is trained from the store {config.store}, which is not there any more; "
            "say where it is now with --store"
        )


def _suitable_loss(
    network: torch.nn.Module, config: TrainConfig, needs: Needs, chosen: Chosen
) -> MentorLoss:
    """The loss, made for this student and these mentors.

    Student and loss are tried on two images, so that what cannot work together says so at once.
    """
    train, mentors, widths = chosen.train, chosen.source.mentors, chosen.feature_widths
    index_1, recipe = train.index_N[:1], chosen.source.recipe
    images = torch.zeros(2, *recipe(train.images(index_1), index_1, 0).shape[1:])
    labels = np.repeat(train.labels_in_view(recipe, index_1, 0), 2, axis=0)
    given: dict[str, Any] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(network).train()
        tap = FeatureTap(trial, train.num_classes) if needs.student_features else None
        with tap or nullcontext():
            output = checked_forward(
                f"student {config.student!r} (in training)",
                trial,
                images,
                train.num_classes,
                output=OUTPUTS[train.task],
                remedy="Choose another --student",
            )
        if tap is not None:
            given["student_features_BF"] = tap.features_BF
    if needs.mentor_features:
        given["mentor_features"] = [torch.zeros(2, width) for width in widths or ()]
    loss = build_loss(
        config.method,
        task=train.task,
        shapes=LossShapes(
            num_mentors=len(mentors),
            num_classes=train.num_classes,
            student_features=given["student_features_BF"].shape[1] if tap is not None else 0,
            mentor_features=widths,
            epochs=config.epochs,
        ),
        seed=config.seed,
        **config.switches,
    )
    if getattr(loss, "confidence", None) == "oks" and loss.sigmas is None:  # type: ignore[attr-defined]
        sigmas = train.person_labels.people.skeleton.sigmas
        loss = dataclasses.replace(loss, sigmas=sigmas)  # type: ignore[type-var]
    mentors_BM = torch.zeros(2, len(mentors), *output.shape[1:]) if mentors else None
    trial_loss = copy.deepcopy(loss)  # of one that learns, too: a trial teaches it nothing
    try:
        with torch.random.fork_rng(devices=[]):
            trial_loss(output.float(), torch.from_numpy(labels), mentors_BM, **given)
    except ValueError as error:
        raise UsageError(
            f"method {config.method!r} with the mentors {', '.join(mentors) or '(none)'}: "
            f"{error}. Choose mentors with --mentors"
        ) from error
    return loss


def _student_metadata(config: TrainConfig, chosen: Chosen) -> dict[str, str]:
    train = chosen.train
    sides = chosen.source.recipe.describe() if train.task == POSE else {}
    return {
        **{side: str(sides[side]) for side in ("height", "width") if side in sides},
        "architecture": long_name(config.student),
        "dataset": train.name,
        "num_classes": str(train.num_classes),
        "preprocessing": json.dumps(train.preprocessing.describe()),
        "method": config.method,
        "seed": str(config.seed),
    }
