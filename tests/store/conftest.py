"""Fixtures for the tests of stores."""

import os
from pathlib import Path

import pytest

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.encode import FITTED
from kdcache.mentors import Mentor
from kdcache.store import TargetStore


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: nothing here outlives a power cut, and a store is made per test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=FITTED)
def fitted_store(
    small_blocks: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
) -> TargetStore:
    """Two views of r14 and r8."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder=request.param, batch_size=64
    )
