"""Killed at any moment and gone on with, a run ends as if it had never been."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.store import TargetStore
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import learned_in
from tests.train.killing import (
    KillReport,
    kill_at_every_write,
    kill_at_random_steps,
    kill_at_random_times,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

STEPS = 18  # three epochs of six


@pytest.fixture
def options(store: TargetStore) -> dict[str, Any]:
    return {
        "student": "r8",
        "dataset": "digits",
        "store": str(store.root),
        "epochs": 3,
        "batch_size": 16,
        "seed": 1,
    }


@pytest.mark.parametrize("every", [None, 1])
def test_killed_at_twenty_random_steps(
    tmp_path: Path, options: dict[str, Any], every: int | None
) -> None:
    report = kill_at_random_steps(
        {**options, "checkpoint_every": every}, tmp_path / "killed", steps=STEPS, kills=20, seed=5
    )
    assert report == KillReport(kills=20, runs_equal=1, runs_different=0)


@pytest.mark.parametrize("every", [None, 4])
def test_killed_in_both_phases_of_amtml(
    tmp_path: Path, options: dict[str, Any], every: int | None
) -> None:
    two_phases = {"method": "amtml", "switches": {"phase1_epochs": 2}, "checkpoint_every": every}
    report = kill_at_random_steps(
        {**options, **two_phases}, tmp_path / "killed", steps=STEPS, kills=10, seed=7
    )
    assert report == KillReport(kills=10, runs_equal=1, runs_different=0)
    ended = [
        RunFolder(tmp_path / "killed" / name).load_checkpoint() for name in ("undisturbed", "0")
    ]
    for undisturbed, killed in zip(*(learned_in(state) for state in ended), strict=True):
        assert torch.equal(undisturbed, killed)


def test_killed_while_it_writes(tmp_path: Path, options: dict[str, Any]) -> None:
    tiny = {"student": "tests.train.dropout_network:build", "epochs": 1, "checkpoint_every": 3}
    report = kill_at_every_write({**options, **tiny}, tmp_path / "killed")
    assert report.kills == report.runs_equal > 20
    assert report.runs_different == 0


@pytest.mark.slow
@pytest.mark.parametrize("every", [None, 1, 4])
@pytest.mark.parametrize("method", ["classroom", "average", "amtml", "ce", "dropout"])
def test_campaign_of_random_steps_and_times(
    tmp_path: Path, options: dict[str, Any], method: str, every: int | None
) -> None:
    options = {**options, "checkpoint_every": every, "method": method}
    if method == "amtml":
        options |= {"switches": {"phase1_epochs": 1}}
    if method == "dropout":
        options |= {"method": "classroom", "student": "tests.train.dropout_network:build"}
    report = kill_at_random_steps(
        options, tmp_path / "steps", steps=STEPS, kills=20, runs=2, seed=0
    )
    assert report == KillReport(kills=40, runs_equal=2, runs_different=0)
    report = kill_at_random_times(options, tmp_path / "times", kills=1, runs=8, seed=3)
    assert report.kills >= 2  # the others had ended by then
    assert report.runs_different == 0


@pytest.mark.slow
@pytest.mark.parametrize("every", [None, 2])
def test_campaign_of_every_write(
    tmp_path: Path, options: dict[str, Any], every: int | None
) -> None:
    report = kill_at_every_write({**options, "checkpoint_every": every}, tmp_path / "killed")
    assert report.kills == report.runs_equal > 20
    assert report.runs_different == 0
