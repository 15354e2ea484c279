"""Training a student: from a config to its data, targets, loss and loop."""

import copy
import json
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdcache.checkpoints import save_weights
from kdcache.classroom import MentorLoss, build_loss
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.devices import resolve_device
from kdcache.errors import UsageError
from kdcache.loader import ReplayLoader
from kdcache.models import build_network, checked_forward, long_name
from kdcache.sources import TargetSource
from kdcache.train.loop import Progress, TrainingLoop
from kdcache.train.run_folder import RunFolder
from kdcache.train.run_source import choose_source
from kdcache.train.train_config import TrainConfig
from kdcache.versions import library_versions


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
    never stopped; a finished one yields nothing. `notify` hears of that, and of changed library
    versions; `progress` of each epoch's steps.

    Everything is checked before the first step: UsageError, StoreMismatch, MissingTargets,
    ReplayMismatch, CheckpointError, DatasetError. While running: Stopped, RunFailed,
    DamagedTargets.
    """
    config = replace(config or TrainConfig(), **options)
    folder = RunFolder(Path(config.run_folder))
    config = folder.adopt(config)
    device = resolve_device(config.device)
    loss = build_loss(config.method, **config.switches)
    long_name(config.student)
    config, train, source = choose_source(config, device)
    test = open_dataset(train.name, "test", data_dir=config.data_dir)
    loader = ReplayLoader(train, source, config.batch_size, seed=config.seed, device=device)
    network = build_network(config.student, train.num_classes, seed=config.seed)
    _require_suitable(network, loss, config, source, train)

    environment = {**library_versions(), "device": str(device), "threads": torch.get_num_threads()}
    folder.claim(config, environment)
    loop = TrainingLoop(config, network=network, loader=loader, loss=loss, test=test, folder=folder)
    state = folder.load_checkpoint()
    folder.keep_records_before(state["epoch"] if state else 0)
    if state is not None:
        _tell_changes(folder.environment(), environment, notify)
        loop.restore(state)
        finished = state["epoch"] == config.epochs
        notify(
            f"{folder.root} is finished: nothing is left to do"
            if finished
            else f"going on in {folder.root} after {state['epoch']} of {config.epochs} epochs"
        )
    yield from loop.run(should_stop, progress)
    save_weights(folder.student, loop.network, _student_metadata(config, train))


def _require_suitable(
    network: torch.nn.Module,
    loss: MentorLoss,
    config: TrainConfig,
    source: TargetSource,
    train: ImageDataset,
) -> None:
    """Tries student and loss on two images, so that what cannot work together says so at once."""
    images = torch.zeros(2, *train.images(train.index_N[:1]).shape[1:])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(network).train()
        output = checked_forward(
            f"student {config.student!r} (in training)",
            trial,
            images,
            train.num_classes,
            remedy="Choose another --student",
        )
    mentors_BMC = torch.zeros(2, len(source.mentors), train.num_classes) if source.mentors else None
    try:
        loss(output.float(), torch.zeros(2, dtype=torch.int64), mentors_BMC)
    except ValueError as error:
        raise UsageError(
            f"method {config.method!r} with the mentors {', '.join(source.mentors) or '(none)'}: "
            f"{error}. Choose mentors with --mentors"
        ) from error


def _tell_changes(
    began: dict[str, Any], now: dict[str, Any], notify: Callable[[str], None]
) -> None:
    changed = [
        f"{key} {began[key]} -> {now[key]}"
        for key in now
        if key in began and began[key] != now[key]
    ]
    if changed:
        notify(
            "this run began elsewhere, so it may not end as if it had never stopped: "
            + ", ".join(changed)
        )


def _student_metadata(config: TrainConfig, train: ImageDataset) -> dict[str, str]:
    return {
        "architecture": long_name(config.student),
        "dataset": train.name,
        "num_classes": str(train.num_classes),
        "preprocessing": json.dumps(train.preprocessing.describe()),
        "method": config.method,
        "seed": str(config.seed),
    }
