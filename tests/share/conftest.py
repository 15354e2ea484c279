"""Fixtures for the tests of hubs."""

import os
from pathlib import Path

import pytest

from tests.store.small import SmallStore, block_of, make_store


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: nothing here outlives a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Three views of two mentors in four blocks."""
    block_of(monkeypatch, 8)
    return make_store(
        tmp_path / "store", num_samples=32, num_classes=10, views=3, mentors=["r8", "r20"]
    )


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A place for a hub."""
    return tmp_path / "hub"
