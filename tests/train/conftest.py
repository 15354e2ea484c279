"""A store of two trained-nowhere digits mentors, and short runs on it."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor
from kdcache.store import TargetStore

Run = Callable[..., Generator[dict[str, Any], None, None]]


@pytest.fixture
def store(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "store", views=3, encoder="float32"
    )


@pytest.fixture
def train(tmp_path: Path, store: TargetStore) -> Run:
    """`train(out, **options)`: three epochs of r8 on the store, records as they come."""

    def run(out: str, **options: Any) -> Generator[dict[str, Any], None, None]:
        defaults: dict[str, Any] = {
            "student": "r8",
            "dataset": "digits",
            "samples": 100,
            "store": str(store.root),
            "epochs": 3,
            "batch_size": 16,
            "seed": 1,
        }
        return kdcache.train_student(**{**defaults, **options, "out": str(tmp_path / out)})

    return run
