"""What a run's options are where nobody gives them: those of the task that its dataset is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.config import read_toml
from kdcache.datasets import POSE_NAMES
from kdcache.errors import UsageError
from kdcache.store import open_store
from kdcache.tasks import CLASSIFICATION, POSE

# Of classification `TrainConfig`'s own. Of poses HRNet's for COCO (Sun et al. 2019, arXiv
# 1902.09212, section 4.1), in smaller batches, without weight decay.
DEFAULTS: dict[str, dict[str, Any]] = {
    CLASSIFICATION: {},
    POSE: {
        "student": "lp18",
        "epochs": 210,
        "batch_size": 32,
        "optimizer": "adam",
        "lr": 1e-3,
        "schedule": "steps-210",
        "weight_decay": 0.0,
    },
}


def with_defaults(options: Mapping[str, Any], folder: str | None = None) -> dict[str, Any]:
    """`TrainConfig`'s fields as given (None: not given), and what the task makes of the others.

    `folder`: of a run that may be there; None: the one that is given. Raises as `task_of`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    task = task_of(given.get("dataset"), given.get("store"), folder or given.get("out"))
    return {**DEFAULTS[task], **given}


def task_of(dataset: str | None, store: str | None, out: str | None = None) -> str:
    """The task of a run: of its dataset, else its store's, else the one of the run in `out`.

    A run folder that is not there says nothing. Raises as `open_store`.
    """
    if dataset is None and store is not None:
        return str(open_store(store).manifest.dataset.get("task", CLASSIFICATION))
    if dataset is None and out is not None:
        try:
            dataset = str(read_toml(Path(out) / "config.toml").get("dataset"))
        except UsageError:
            return CLASSIFICATION
    return POSE if dataset in POSE_NAMES else CLASSIFICATION
