"""Left at any step, asked to stop or killed, a run goes on as if it had never been left."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.classroom import METHODS
from kdcache.errors import CheckpointError, Stopped, UsageError
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import same_run, same_weights, timeless
from tests.train.conftest import Run
from tests.train.learning_loss import Learning, LearningOfThree

STEPS = 12  # two epochs of six
DROPOUT = "tests.train.dropout_network:build"
RUNS: dict[str, dict[str, Any]] = {
    "classroom": {},
    "classroom, per batch": {"switches": {"granularity": "batch"}},
    "average": {"method": "average"},
    "kd": {"method": "kd", "mentors": ("r14",)},
    "ce": {"method": "ce"},
    "dropout": {"student": DROPOUT},
    "no momentum": {"student": DROPOUT, "momentum": 0.0},
    "bf16": {"student": DROPOUT, "precision": "bf16"},
    "learning loss": {"student": DROPOUT, "method": "learning"},
}


class Died(BaseException):
    """Ends a run on the spot, as a kill would: nothing on the way catches it."""


def die_at(step: int) -> Any:
    """A `progress` that dies when the run's process has taken so many steps."""
    taken = iter(range(1, step))

    def progress(done: int, steps_an_epoch: int) -> None:
        if next(taken, None) is None:
            raise Died

    return progress


def stop_at(step: int) -> Any:
    """A `should_stop` that says so after so many steps."""
    taken = iter(range(1, step))
    return lambda: next(taken, None) is None


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the method "learning"."""
    monkeypatch.setitem(METHODS, "learning", Learning)


@pytest.mark.parametrize("name", RUNS)
def test_stopped_at_any_step(train: Run, tmp_path: Path, name: str) -> None:
    options = {"epochs": 2, **RUNS[name]}
    undisturbed = list(train("undisturbed", **options))
    for step in range(1, STEPS + 1):
        with pytest.raises(Stopped, match="Run the same command again"):
            list(train(f"stopped-{step}", **options, should_stop=stop_at(step)))
        told: list[str] = []
        list(train(f"stopped-{step}", **options, notify=told.append))
        assert "going on" in told[0]
        assert same_run(tmp_path / f"stopped-{step}", tmp_path / "undisturbed"), step
    records = RunFolder(tmp_path / "stopped-1").records()
    assert timeless(records) == timeless(undisturbed)
    assert len(undisturbed) == 2


@pytest.mark.parametrize("name", ["classroom", "dropout", "learning loss"])
@pytest.mark.parametrize("every", [None, 1, 4])
def test_died_at_any_step(train: Run, tmp_path: Path, name: str, every: int | None) -> None:
    options = {"epochs": 2, **RUNS[name]}
    list(train("undisturbed", **options))
    for step in range(1, STEPS + 1, 2 if every else 5):
        with pytest.raises(Died):
            list(train(f"{step}", **options, checkpoint_every=every, progress=die_at(step)))
        left: list[int] = []
        list(train(f"{step}", **options, progress=lambda done, _, left=left: left.append(done)))
        assert same_run(tmp_path / f"{step}", tmp_path / "undisturbed"), step
        epoch, done = divmod(step - 1, STEPS // 2)  # the step itself was not saved
        saved = done - done % every if every else 0
        assert len(left) == STEPS - (epoch * (STEPS // 2) + saved)


def test_a_finished_student_that_was_damaged_is_written_again(train: Run, tmp_path: Path) -> None:
    list(train("run"))
    folder = RunFolder(tmp_path / "run")
    whole = folder.student.read_bytes()
    for damaged in (whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1]), None):
        if damaged is None:
            folder.student.unlink()
        else:
            folder.student.write_bytes(damaged)
        told: list[str] = []
        assert list(train("run", notify=told.append)) == []
        assert "missing or not what was trained, and is written again" in told[-1]
        assert folder.student.read_bytes() == whole


def test_what_a_killed_run_left_over_is_removed(train: Run, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        list(train("run", should_stop=stop_at(2)))
    for name in ("checkpoint.pt", "config.toml", "metrics.jsonl", "student.safetensors"):
        (tmp_path / "run" / f".{name}.0123456789ab.tmp").write_text("half")
    (tmp_path / "run" / "notes.tmp").write_text("the user's own")
    list(train("run"))
    assert [file.name for file in (tmp_path / "run").glob("*.tmp")] == ["notes.tmp"]
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_two_cannot_train_in_one_folder(train: Run, tmp_path: Path) -> None:
    first = train("run")
    next(first)
    with pytest.raises(UsageError, match="another process is training in"):
        next(train("run"))
    first.close()
    next(train("run"))


def test_a_loss_learns_beside_the_student_without_its_weight_decay(
    train: Run, tmp_path: Path
) -> None:
    list(train("learned", **RUNS["learning loss"]))
    folder = RunFolder(tmp_path / "learned")
    state = folder.load_checkpoint()
    assert isinstance(state, dict)
    assert state["loss"]["seen"] == 18  # not 19: the trial before the first step taught nothing
    assert not torch.equal(state["loss"]["scale_M"], torch.ones(2))
    assert state["loss"]["idle"] == 1
    list(train("average", student=DROPOUT, method="average"))
    assert not same_weights(tmp_path / "learned", tmp_path / "average")


def test_a_loss_without_its_state_is_told(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in (("learned", RUNS["learning loss"]), ("plain", RUNS["dropout"])):
        with pytest.raises(Stopped):
            list(train(name, **options, should_stop=stop_at(3)))
    monkeypatch.setitem(METHODS, "classroom", Learning)
    with pytest.raises(CheckpointError, match=r"state.loss lacks '(scale_M|idle|seen)'"):
        next(train("plain", **RUNS["dropout"]))
    monkeypatch.setitem(METHODS, "learning", LearningOfThree)
    with pytest.raises(CheckpointError, match=r"state.loss.scale_M is .*\(2,\), expected .*\(3,\)"):
        next(train("learned", **RUNS["learning loss"]))
    monkeypatch.setitem(METHODS, "learning", METHODS["average"])
    with pytest.raises(CheckpointError, match=r"state.loss has .* which this run does not know"):
        next(train("learned", **RUNS["learning loss"]))
