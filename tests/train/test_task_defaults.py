"""Which task a run is of, and what its options then are."""

from pathlib import Path

import pytest

from kdcache.config import write_toml
from kdcache.errors import StoreError
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.train import TrainConfig, with_defaults
from kdcache.train.task_defaults import task_of


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("coco-keypoints", POSE),
        ("mpii", POSE),
        ("cifar100", CLASSIFICATION),
        ("my_data:make", CLASSIFICATION),
        (None, CLASSIFICATION),
    ],
)
def test_a_dataset_says_its_task(dataset: str | None, task: str) -> None:
    assert task_of(dataset, None) == task


def test_a_run_that_is_there_says_it_too(tmp_path: Path) -> None:
    write_toml(tmp_path / "config.toml", {"dataset": "mpii"})
    assert task_of(None, None, str(tmp_path)) == POSE
    assert task_of(None, None, str(tmp_path / "not there")) == CLASSIFICATION
    assert task_of("digits", None, str(tmp_path)) == CLASSIFICATION


def test_a_store_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        task_of(None, str(tmp_path / "typo"))
    assert task_of("mpii", str(tmp_path / "typo")) == POSE


def test_what_is_given_wins_over_the_tasks_defaults() -> None:
    config = TrainConfig(**with_defaults({"dataset": "mpii", "lr": 0.5, "epochs": None}))
    assert (config.lr, config.epochs, config.optimizer) == (0.5, 210, "adam")
    assert TrainConfig(**with_defaults({"dataset": "digits"})) == TrainConfig(dataset="digits")
