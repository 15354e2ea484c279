"""Training through a window: cached equals online bit for bit, resumed equals never stopped."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset
from kdcache.errors import Stopped, UsageError
from kdcache.mentors import Mentor
from kdcache.store import TargetStore
from tests.store.small import block_of
from tests.train.comparing import same_run, same_weights, timeless
from tests.train.conftest import Run
from tests.train.killing import kill_at_random_steps

WINDOW = 32  # samples: four blocks of 8, of 13


@pytest.fixture
def store(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> TargetStore:
    """Two mentors in float32, 13 blocks a view."""
    block_of(monkeypatch, 8)
    made = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "store", views=2, encoder="float32"
    )
    assert made.manifest.num_blocks == 13
    return made


def test_cached_equals_online_in_an_order_of_its_own(train: Run, tmp_path: Path) -> None:
    checkpoints = {n: str(tmp_path / f"checkpoints/{n}-0.safetensors") for n in ("r14", "r8")}
    options: dict[str, Any] = {"window": WINDOW, "epochs": 2}
    cached = list(train("cached", **options))
    online = list(train("online", targets="online", checkpoints=checkpoints, **options))
    assert timeless(cached) == timeless(online)
    assert same_weights(tmp_path / "cached", tmp_path / "online")
    assert read_toml(tmp_path / "cached/config.toml")["window"] == WINDOW
    list(train("whole", epochs=2))
    assert not same_weights(tmp_path / "cached", tmp_path / "whole")


def test_labels_only_comes_in_the_same_order(train: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "ce", "epochs": 2}
    list(train("from-store", window=WINDOW, **options))
    list(train("by-itself", window=WINDOW, store=None, **options, recipe="crop-flip", views=2))
    assert same_weights(tmp_path / "from-store", tmp_path / "by-itself")
    list(train("whole", **options))
    assert not same_weights(tmp_path / "from-store", tmp_path / "whole")


def test_stopped_at_any_step_it_goes_on(train: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "window": WINDOW}
    list(train("undisturbed", **options))
    for step in range(1, 12, 3):
        taken = iter(range(1, step))
        with pytest.raises(Stopped):
            list(train("stopped", **options, should_stop=lambda t=taken: next(t, None) is None))
        list(train("stopped", epochs=2))  # the run's own window is adopted
        assert same_run(tmp_path / "stopped", tmp_path / "undisturbed"), step
        for file in (tmp_path / "stopped").iterdir():
            file.unlink()


def test_killed_it_goes_on(store: TargetStore, tmp_path: Path) -> None:
    options = {
        "student": "r8",
        "dataset": "digits",
        "samples": 100,
        "store": str(store.root),
        "batch_size": 16,
        "epochs": 2,
        "window": WINDOW,
        "checkpoint_every": 2,
    }
    report = kill_at_random_steps(options, tmp_path, steps=12, kills=3, seed=0)
    assert (report.kills, report.runs_equal, report.runs_different) == (3, 1, 0)


def test_another_window_is_another_run(train: Run) -> None:
    with pytest.raises(Stopped):
        list(train("run", window=WINDOW, should_stop=lambda: True))
    with pytest.raises(UsageError, match=r"holds another run:(.|\n)*window\s+32\s+48"):
        list(train("run", window=48))


def test_impossible_windows_are_refused_before_anything_is_made(
    train: Run, store: TargetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="window of 15 samples is smaller than a batch of 16"):
        list(train("run", window=15))
    command = ["train-student", "--store", str(store.root), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*command, "--window", "0"])
    assert result.exit_code == 2
    assert "at least 1, got 0" in result.output
    config = tmp_path / "window.toml"
    config.write_text("window = 64.5\n")
    result = CliRunner().invoke(main, [*command, "--config", str(config)])
    assert result.exit_code == 2
    assert "window must be of type integer, got 64.5" in result.output
    monkeypatch.setattr("kdcache.stream.available_memory", lambda: 5000)
    result = CliRunner().invoke(main, [*command, "--batch-size", "16"])
    assert result.exit_code == 2
    # A block of 8 samples: 2 mentors x 10 classes x 4 bytes, 640 in all; 6 fit in 80% of 5,000.
    assert "--window 40" in result.output
    assert not (tmp_path / "run").exists()
    ce = CliRunner().invoke(main, [*command, "--method", "ce", "--epochs", "1", "--student", "r8"])
    assert ce.exit_code == 0, ce.output  # labels only takes no targets into memory
