"""Runs by AMTML-KD: both phases, what learns at which rate, and going on with them anywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.classroom import Amtml, AmtmlLoss, LossShapes
from kdcache.errors import MissingTargets, Stopped, UsageError
from kdcache.train.loop import TrainingLoop
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import learned_in, same_run
from tests.train.conftest import Run
from tests.train.test_resuming import Died, die_at, stop_at

STEPS = 18  # three epochs of six
OPTIONS: dict[str, Any] = {"method": "amtml", "switches": {"phase1_epochs": 1}}
DROPOUT = {"student": "tests.train.dropout_network:build"}


def state_of(folder: Path) -> dict[str, Any]:
    state = RunFolder(folder).load_checkpoint()
    assert isinstance(state, dict)
    return state


def same_learning(a: Path, b: Path) -> bool:
    """theta, W and all momentum, bit for bit."""
    pairs = zip(learned_in(state_of(a)), learned_in(state_of(b)), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize(
    "extra",
    [{}, DROPOUT | {"precision": "bf16"}, {"switches": {"phase1_epochs": 2, "regularise": True}}],
    ids=str,
)
def test_stopped_at_any_step(train: Run, tmp_path: Path, extra: dict[str, Any]) -> None:
    options = {**OPTIONS, **extra}
    list(train("undisturbed", **options))
    for step in range(1, STEPS + 1, 1 if not extra else 5):  # 6: the boundary; then phase 2
        with pytest.raises(Stopped):
            list(train(f"{step}", **options, should_stop=stop_at(step)))
        list(train(f"{step}", **options))
        assert same_run(tmp_path / f"{step}", tmp_path / "undisturbed"), step
        assert same_learning(tmp_path / f"{step}", tmp_path / "undisturbed"), step


@pytest.mark.parametrize("every", [None, 1, 4])
def test_died_in_either_phase_and_between_them(
    train: Run, tmp_path: Path, every: int | None
) -> None:
    list(train("undisturbed", **OPTIONS))
    for step in (3, 6, 7, 9, 12, 13, 16):
        options = {**OPTIONS, "checkpoint_every": every}
        with pytest.raises(Died):
            list(train(f"{step}", **options, progress=die_at(step)))
        list(train(f"{step}", **options))
        assert same_run(tmp_path / f"{step}", tmp_path / "undisturbed"), step
        assert same_learning(tmp_path / f"{step}", tmp_path / "undisturbed"), step


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
def test_weights_learn_in_phase_one_and_rest_in_phase_two(train: Run, tmp_path: Path) -> None:
    kept = []
    shapes = LossShapes(num_mentors=2, num_classes=10, student_features=64)
    begun = Amtml().for_shapes(shapes, seed=1).state_dict()
    for _ in train("run", **{**OPTIONS, "switches": {"phase1_epochs": 2}}, epochs=4):
        state = state_of(tmp_path / "run")
        kept.append((dict(state["loss"]), state["network"], state["momentum"][-2:]))
    for name in ("theta_MF", "W_F1"):
        assert begun[name].shape == kept[0][0][name].shape
        assert not torch.equal(begun[name], kept[0][0][name])
        assert not torch.equal(kept[0][0][name], kept[1][0][name])
        assert torch.equal(kept[1][0][name], kept[3][0][name])
    for ours, theirs in zip(kept[1][2], kept[3][2], strict=True):
        assert torch.equal(ours, theirs)
        assert ours.abs().sum() > 0
    weights = [key for key in kept[0][1] if "conv" in key]
    assert weights
    for key in weights:  # the student goes on
        assert not torch.equal(kept[2][1][key], kept[3][1][key])


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
def test_each_learns_at_its_own_rate(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base 0.1: the student's schedule, and theta's and W's own drops at 40 and 70 of 80."""
    rates: list[tuple[float, ...]] = []
    take_step = TrainingLoop._step

    def step(loop: TrainingLoop, batch: Any) -> None:
        groups = loop._optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == [5e-4, 0, 0]
        rates.append(tuple(group["lr"] for group in groups))
        take_step(loop, batch)

    monkeypatch.setattr(TrainingLoop, "_step", step)
    options = {"method": "amtml", "schedule": "amtml", "lr": 0.1, "epochs": 28, "eval_every": 28}
    records = list(train("run", **options, samples=20))
    students = [record["lr"] for record in records]
    assert students == pytest.approx([0.1] * 18 + [0.01] * 5 + [0.001] * 5)
    assert [rate[0] for rate in rates] == students
    own = [0.1] * 4 + [0.01] * 3 + [0.001]
    for position in (1, 2):
        assert [rate[position] for rate in rates][:8] == pytest.approx(own)


def test_the_record_tells_the_mean_weights(train: Run) -> None:
    (record,) = train("run", **OPTIONS, epochs=1)
    weights = record["classroom"]["weight"]
    assert sum(weights.values()) == pytest.approx(1)
    assert record["task_loss"] + record["mentor_loss"] == pytest.approx(record["train_loss"])


def test_a_seed_decides_what_is_learned(train: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        list(train(name, **OPTIONS, epochs=1, seed=seed))
    assert same_run(tmp_path / "a", tmp_path / "b")
    assert same_learning(tmp_path / "a", tmp_path / "b")
    assert not same_learning(tmp_path / "a", tmp_path / "c")


def test_other_switches_are_another_run(train: Run) -> None:
    next(train("run", **OPTIONS))
    with pytest.raises(UsageError, match="holds another run"):
        next(train("run", **{**OPTIONS, "switches": {"phase1_epochs": 2}}))


def test_hints_without_mentor_features_are_refused_before_the_first_step(
    train: Run, tmp_path: Path
) -> None:
    with pytest.raises(MissingTargets, match=r"kdcache precompute .* --features"):
        next(train("run", method="amtml", switches={"hint_weight": 1.0}))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_labels_only_loss_pays_nothing(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tap, no features: what a method does not need is not made."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a tap was made")

    monkeypatch.setattr("kdcache.train.loop.FeatureTap", refuse)
    monkeypatch.setattr("kdcache.train.student.FeatureTap", refuse)
    assert len(list(train("run", method="ce", epochs=1))) == 1
    with pytest.raises(AssertionError, match="a tap was made"):
        next(train("other", **OPTIONS))


def test_the_loss_of_a_run_is_the_public_one() -> None:
    loss = Amtml().for_shapes(
        LossShapes(num_mentors=2, num_classes=10, student_features=64, epochs=7), seed=0
    )
    assert isinstance(loss, AmtmlLoss)
    assert loss.phases.phase1_epochs == 2
