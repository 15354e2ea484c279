"""Training a mentor: a student of the labels alone whose weights go into the mentor library."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from kdcache import durable, homes
from kdcache.checkpoints import read_state_dict, save_weights
from kdcache.datasets import open_dataset
from kdcache.mentors import library_stem, sidecar_path
from kdcache.models import long_name
from kdcache.train.run_folder import RunFolder
from kdcache.train.student import train_student
from kdcache.train.train_config import TrainConfig
from kdcache.versions import library_versions


def train_mentor(
    name: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Generator[dict[str, Any], None, None]:
    """Trains network `name` on labels; options are `TrainConfig`'s. Yields a record an epoch.

    At the end its checkpoint and sidecar (preprocessing, accuracy, how it was trained) are in the
    mentor library, where `--mentors` finds it. The run folder is under `$KDCACHE_HOME/runs` unless
    `out` says otherwise; resumable like a student's.
    """
    options.setdefault("out", str(default_run_folder(name, options)))
    config = TrainConfig(student=name, method="ce", **options)
    yield from train_student(config, should_stop=should_stop, notify=notify)
    publish_mentor(config)


def default_run_folder(name: str, options: dict[str, Any]) -> Path:
    """Where a mentor's training run is kept."""
    dataset = str(options.get("dataset", TrainConfig().dataset)).replace(":", ".")
    return (
        homes.home() / "runs" / f"mentor-{dataset}-{library_stem(name)}-s{options.get('seed', 0)}"
    )


def publish_mentor(config: TrainConfig) -> Path:
    """Puts a finished run's weights and sidecar into the mentor library; returns the checkpoint."""
    folder = RunFolder(Path(config.run_folder))
    dataset = open_dataset(config.dataset, data_dir=config.data_dir)
    last = folder.records()[-1]
    checkpoint = (
        homes.mentor_library(config.dataset) / f"{library_stem(config.student)}.safetensors"
    )
    sidecar = {
        "architecture": long_name(config.student),
        "dataset": config.dataset,
        "num_classes": dataset.num_classes,
        "preprocessing": dataset.preprocessing.describe(),
        "test_top1": last["test_top1"],
        "epochs": config.epochs,
        "seed": config.seed,
        "samples": config.samples or len(dataset),
        "written_by": library_versions(),
    }
    # The sidecar first: a checkpoint that is there always has its own.
    durable.write_file(sidecar_path(checkpoint), json.dumps(sidecar, indent=2).encode())
    save_weights(checkpoint, read_state_dict(folder.student), {"dataset": config.dataset})
    return checkpoint
