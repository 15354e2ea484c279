"""Fixtures for the tests of stores at URLs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.serving import Server, serving
from tests.store.small import SmallStore, block_of, make_store

VIEWS = 3


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for the disk nor between attempts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
    monkeypatch.setenv("KDCACHE_PATIENCE", "0")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Three views of two mentors in four blocks, of 1,600 bytes each."""
    block_of(monkeypatch, 8)
    return make_store(
        tmp_path / "served" / "store",
        num_samples=32,
        num_classes=100,
        views=VIEWS,
        mentors=["r8", "r20"],
    )


@pytest.fixture
def server(small: SmallStore) -> Iterator[Server]:
    """Serves the small store, as /store."""
    with serving(small.root.parent) as started:
        yield started


@pytest.fixture
def url(server: Server) -> str:
    return f"{server.url}/store"
