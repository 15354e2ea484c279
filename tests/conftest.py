"""Fixtures for every test: an isolated home, the real data, small mentors of the bundled digits."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.mentors import Mentor, load_mentor
from kdcache.models import build_network
from tests.servers import KINDS, WRITABLE, Server, start_server


@pytest.fixture(autouse=True)
def kdcache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's home."""
    home = tmp_path / "home"
    monkeypatch.setenv("KDCACHE_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with CIFAR-100 and its trained mentors."""
    if not os.environ.get("KDCACHE_DATA"):
        pytest.skip("KDCACHE_DATA is not set: it names the folder with the real data")
    return Path(os.environ["KDCACHE_DATA"])


@pytest.fixture
def digits() -> ImageDataset:
    """100 training digits."""
    return open_dataset("digits", samples=100)


@pytest.fixture
def digits_checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a checkpoint of a digits network from a seed: real forward passes, no training."""

    def make(name: str, seed: int = 0) -> Path:
        path = tmp_path / "checkpoints" / f"{name}-{seed}.safetensors"
        save_weights(path, build_network(name, 10, seed=seed), {})
        return path

    return make


@pytest.fixture
def digits_mentors(digits: ImageDataset, digits_checkpoint: Callable[[str], Path]) -> list[Mentor]:
    """Two digits mentors, r14 and r8."""
    return [load_mentor(name, digits, digits_checkpoint(name)) for name in ("r14", "r8")]


@pytest.fixture(params=KINDS)
def any_server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A real server of each kind; its clients' environment is set."""
    with start_server(request.param, tmp_path / "server", monkeypatch) as server:
        yield server


@pytest.fixture(params=WRITABLE)
def writable_server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A real server of each kind that takes files."""
    with start_server(request.param, tmp_path / "server", monkeypatch) as server:
        yield server


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 32 samples: 100 lie in 4 blocks of 25."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 32)
