"""Training a mentor: a student of the labels alone whose weights go into the mentor library."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from kdcache import durable, homes
from kdcache.checkpoints import read_metadata, read_state_dict, save_weights
from kdcache.datasets import DEFAULT_DATASET, ImageDataset, open_dataset
from kdcache.headline import HEADLINES
from kdcache.mentor_library import library_stem, sidecar_path
from kdcache.models import long_name
from kdcache.train.loop import Progress
from kdcache.train.run_folder import RunFolder
from kdcache.train.student import train_student
from kdcache.train.task_defaults import with_defaults
from kdcache.train.train_config import TrainConfig
from kdcache.versions import library_versions


def train_mentor(
    name: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Generator[dict[str, Any], None, None]:
    """Trains network `name` on labels; options are `TrainConfig`'s. Yields a record an epoch.

    At the end its checkpoint and sidecar (preprocessing, accuracy, how it was trained) are in the
    mentor library, where `--mentors` finds it. The run folder is under `$KDCACHE_HOME/runs` unless
    `out` says otherwise; resumable like a student's.
    """
    options["dataset"] = options.get("dataset") or DEFAULT_DATASET
    options["out"] = options.get("out") or str(default_run_folder(name, options))
    config = TrainConfig(**with_defaults({**options, "student": name, "method": "ce"}))
    yield from train_student(config, should_stop=should_stop, notify=notify, progress=progress)
    publish_mentor(config, open_dataset(options["dataset"], data_dir=config.data_dir))


def default_run_folder(name: str, options: dict[str, Any]) -> Path:
    """Where a mentor's training run is kept."""
    dataset = str(options.get("dataset") or DEFAULT_DATASET).replace(":", ".")
    return (
        homes.home() / "runs" / f"mentor-{dataset}-{library_stem(name)}-s{options.get('seed', 0)}"
    )


def library_checkpoint(name: str, dataset: str | None) -> Path:
    """Where a trained mentor's weights are put."""
    return homes.mentor_library(dataset or DEFAULT_DATASET) / f"{library_stem(name)}.safetensors"


def _headline(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in HEADLINES if key in record}


def publish_mentor(config: TrainConfig, dataset: ImageDataset) -> None:
    """Puts a finished run's weights and sidecar into the mentor library."""
    folder = RunFolder(Path(config.run_folder))
    checkpoint = library_checkpoint(config.student, dataset.name)
    sides = read_metadata(folder.student)
    sidecar: dict[str, Any] = {
        "architecture": long_name(config.student),
        "dataset": dataset.name,
        "num_classes": dataset.num_classes,
        "preprocessing": dataset.preprocessing.describe(),
        **_headline(folder.records()[-1]),
        **{side: int(sides[side]) for side in ("height", "width") if side in sides},
        "epochs": config.epochs,
        "seed": config.seed,
        "samples": config.samples or len(dataset),
        "written_by": library_versions(),
    }
    # The sidecar first: a checkpoint that is there always has its own.
    durable.write_file(sidecar_path(checkpoint), json.dumps(sidecar, indent=2).encode())
    save_weights(checkpoint, read_state_dict(folder.student), read_metadata(folder.student))
