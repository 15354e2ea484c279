"""Training a student: from a config to its data, targets, loss and loop."""

import copy
import json
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdcache.checkpoints import save_weights
from kdcache.classroom import LossShapes, MentorLoss, Needs, build_loss, build_method
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.devices import resolve_device
from kdcache.errors import StoreError, UsageError
from kdcache.loader import ReplayLoader
from kdcache.models import build_network, checked_forward, long_name
from kdcache.models.pooled_features import FeatureTap
from kdcache.store import local_path
from kdcache.train.beginnings import describe_samples, running_environment, tell_changes
from kdcache.train.compiling import require_compiler
from kdcache.train.loop import Progress, TrainingLoop
from kdcache.train.run_folder import RunFolder, run_identity
from kdcache.train.run_source import Chosen, choose_source
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

    A run folder with an unfinished run of the same config is gone on with, exactly as if it had
    never stopped; a finished one yields nothing. `notify` hears of that, and of an environment
    that is another one (library versions, device, threads); `progress` of each epoch's steps.

    Everything is checked before the first step: UsageError, StoreMismatch, MissingTargets,
    ReplayMismatch, CheckpointError, DatasetError. While running: Stopped, RunFailed,
    DamagedTargets.
    """
    given = replace(config or TrainConfig(), **options)
    folder = RunFolder(Path(given.run_folder))
    config = folder.adopt(given)
    _require_store_in_place(given, config, folder)
    device = resolve_device(config.device)
    needs = build_method(config.method, **config.switches).needs
    if needs.mentor_order and config.mentors is None:
        raise UsageError(
            f"method {config.method!r} with these switches counts positions in --mentors, and a "
            "store has an order of its own: name the mentors too, in the order you mean"
        )
    if config.compile:
        require_compiler(device)
        if needs.student_features:
            raise UsageError(
                f"method {config.method!r} takes the student's pooled features out of its forward "
                "pass, which --compile makes one piece of; leave --compile out"
            )
    long_name(config.student)
    chosen = choose_source(config, device, needs)
    config, train, source = chosen.config, chosen.train, chosen.source
    test = open_dataset(train.name, "test", data_dir=config.data_dir)
    loader = ReplayLoader(train, source, config.batch_size, seed=config.seed, device=device)
    network = build_network(config.student, train.num_classes, seed=config.seed)
    loss = _suitable_loss(network, config, needs, chosen)

    with folder.alone():
        environment = running_environment(device)
        trained_on = {**describe_samples(train, test), **chosen.taught_by}
        began = folder.claim(config, environment, trained_on)
        loop = TrainingLoop(
            config,
            network=network,
            loader=loader,
            loss=loss,
            test=test,
            folder=folder,
            identity=run_identity(config, trained_on),
        )
        state = folder.load_checkpoint()
        if state is None:
            for warning in chosen.warnings:
                notify(f"warning: {warning}")
        else:
            tell_changes(began, environment, notify)
            loop.restore(state)
        # The checkpoint knows them all: what else is there is an epoch that will run again.
        folder.replace_records(loop.records)
        finished = loop.epochs_done == config.epochs
        if state is not None and not finished:
            notify(f"going on in {folder.root} after {loop.epochs_done} of {config.epochs} epochs")
        yield from loop.run(should_stop, progress)
        as_it_was = folder.student.read_bytes() if folder.student.is_file() else None
        save_weights(folder.student, loop.network, _student_metadata(config, train))
        if finished:
            notify(
                f"{folder.root} is finished: nothing is left to do"
                if folder.student.read_bytes() == as_it_was
                else f"{folder.root} is finished; {folder.student.name} was missing or not what "
                "was trained, and is written again"
            )


def _require_store_in_place(given: TrainConfig, config: TrainConfig, folder: RunFolder) -> None:
    """The store that the run in the folder began with must still be where it was."""
    if given.store is None and config.store and not local_path(config.store).exists():
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
    images = torch.zeros(2, *train.images(train.index_N[:1]).shape[1:])
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
                remedy="Choose another --student",
            )
        if tap is not None:
            given["student_features_BF"] = tap.features_BF
    if needs.mentor_features:
        given["mentor_features"] = [torch.zeros(2, width) for width in widths or ()]
    loss = build_loss(
        config.method,
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
    mentors_BMC = torch.zeros(2, len(mentors), train.num_classes) if mentors else None
    trial_loss = copy.deepcopy(loss)  # of one that learns, too: a trial teaches it nothing
    try:
        with torch.random.fork_rng(devices=[]):
            trial_loss(output.float(), torch.zeros(2, dtype=torch.int64), mentors_BMC, **given)
    except ValueError as error:
        raise UsageError(
            f"method {config.method!r} with the mentors {', '.join(mentors) or '(none)'}: "
            f"{error}. Choose mentors with --mentors"
        ) from error
    return loss


def _student_metadata(config: TrainConfig, train: ImageDataset) -> dict[str, str]:
    return {
        "architecture": long_name(config.student),
        "dataset": train.name,
        "num_classes": str(train.num_classes),
        "preprocessing": json.dumps(train.preprocessing.describe()),
        "method": config.method,
        "seed": str(config.seed),
    }
