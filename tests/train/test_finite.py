"""Numbers that are no longer finite end the run at their step; no checkpoint is written of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from kdcache.cli import main
from kdcache.errors import RunFailed
from kdcache.store import TargetStore
from kdcache.train.evaluation import Accuracy
from kdcache.train.finite import FiniteWatch
from kdcache.train.run_folder import RunFolder
from tests.train.conftest import Run

NETWORKS = "tests.train.diverging_networks"
NINTH = r"the student's logits became NaN or infinite in step 3 of 6 of epoch 2/3"


def state_of(folder: RunFolder) -> dict[str, Any]:
    state = folder.load_checkpoint()
    assert isinstance(state, dict)
    return state


@pytest.mark.parametrize("method", ["ce", "average", "classroom"])
@pytest.mark.parametrize("student", ["to_nan", "to_infinity"])
def test_the_step_is_named_and_the_last_good_checkpoint_stays(
    train: Run, tmp_path: Path, student: str, method: str
) -> None:
    options = {"student": f"{NETWORKS}:{student}", "method": method}
    run = train("run", **options)
    next(run)
    folder = RunFolder(tmp_path / "run")
    good = folder.checkpoint.read_bytes()
    with pytest.raises(RunFailed, match=f"{NINTH}; the last good checkpoint is kept in .*--lr"):
        next(run)
    assert folder.checkpoint.read_bytes() == good
    assert [record["epoch"] for record in folder.records()] == [0]
    assert not folder.student.exists()
    # What is kept is whole: the same command goes on from it, to the same step.
    with pytest.raises(RunFailed, match=NINTH):
        list(train("run", **options))
    assert folder.checkpoint.read_bytes() == good


def test_the_last_step_before_it_is_kept_where_every_step_is(train: Run, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=NINTH):
        list(train("run", student=f"{NETWORKS}:to_nan", checkpoint_every=1))
    state = state_of(RunFolder(tmp_path / "run"))
    assert state["loader"] == {"epoch": 1, "done": 2}
    assert state["network"]["steps"] == 8


@pytest.mark.parametrize("how", ["every step", "stopped", "epoch"])
def test_what_a_finite_loss_does_not_show_is_not_saved_either(
    train: Run, tmp_path: Path, how: str
) -> None:
    options: dict[str, Any] = {"student": f"{NETWORKS}:to_a_lost_weight"}
    if how == "every step":
        options["checkpoint_every"] = 1
    if how == "stopped":
        polls = iter(range(3))
        options["should_stop"] = lambda: next(polls, None) is None
    step = {"every step": 3, "stopped": 4, "epoch": 6}[how]
    with pytest.raises(RunFailed, match=rf"the weights became NaN or infinite in step {step} of 6"):
        list(train("run", **options))
    folder = RunFolder(tmp_path / "run")
    if how == "every step":
        assert state_of(folder)["loader"] == {"epoch": 0, "done": 2}
    else:
        assert not folder.checkpoint.exists()
    assert folder.records() == []


def test_a_lower_rate_elsewhere_is_the_way_on(train: Run, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"step 2 of 6 of epoch 1/3; .*lower --lr.*another --out"):
        list(train("wild", method="ce", lr=1e30))
    list(train("lower", method="ce", lr=0.01, epochs=1))
    assert RunFolder(tmp_path / "lower").student.exists()


def test_on_the_command_line(store: TargetStore, tmp_path: Path) -> None:
    command = (
        f"train-student --student r8 --store {store.root} --epochs 2 --lr 1e30 --batch-size 16 "
        f"--method ce --out {tmp_path / 'run'}"
    )
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 1
    assert "in step 2 of 6 of epoch 1/2" in done.output
    assert "Traceback" not in done.output


def watch_on(device: str, **options: Any) -> FiniteWatch:
    def explain(step: int, what: str) -> RunFailed:
        return RunFailed(f"{what} in step {step}")

    return FiniteWatch(torch.device(device), explain, **options)


def seen(watch: FiniteWatch, step: int, logit: float, total: float, device: str = "cpu") -> None:
    logits_BC = torch.tensor([[0.0, logit]], device=device)
    watch.see(step, logits_BC, torch.tensor(total, device=device))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_step_is_remembered_until_somebody_waits(bad: float) -> None:
    for logit, total, what in ((bad, bad, "the student's logits"), (1.0, bad, "the loss")):
        watch = watch_on("cpu", at_once=False)
        seen(watch, 1, 1.0, 1.0)
        watch.settle(1, [torch.ones(3)])
        seen(watch, 2, 1.0, 1.0)
        seen(watch, 3, logit, total)
        seen(watch, 4, bad, bad)  # what follows from it does not hide it
        seen(watch, 5, 1.0, 1.0)
        with pytest.raises(RunFailed, match=f"^{what} in step 3$"):
            watch.settle(5, [torch.ones(3)])


def test_at_once_it_is_the_step_itself() -> None:
    watch = watch_on("cpu")
    seen(watch, 1, 1e38, 1e38)
    with pytest.raises(RunFailed, match=r"^the loss in step 2$"):
        seen(watch, 2, 1.0, float("inf"))
    with pytest.raises(RunFailed, match=r"^the weights in step 7$"):
        watch.settle(7, [torch.ones(2), torch.tensor([1, 2]), torch.tensor([0.0, float("nan")])])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for_and_the_news_comes_in() -> None:
    watch = watch_on("cuda")
    seen(watch, 1, 1.0, 1.0, "cuda")
    logits_BC = torch.tensor([[0.0, float("nan")]], device="cuda")
    total = torch.ones((), device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        watch.see(2, logits_BC, total)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    with pytest.raises(RunFailed, match=r"^the student's logits in step 2$"):
        seen(watch, 3, 1.0, 1.0, "cuda")


def test_a_test_loss_that_is_not_finite_is_no_number_in_the_records(
    train: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Accuracy(top1=10.0, top5=50.0, loss=math.inf, samples=10)
    monkeypatch.setattr("kdcache.train.evaluation.evaluate_network", lambda *_: found)
    first = next(train("run", epochs=2))
    assert (first["test_loss"], first["test_top1"]) == (None, 10.0)
    assert len(list(train("run", epochs=2))) == 1  # its checkpoint is gone on with
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
