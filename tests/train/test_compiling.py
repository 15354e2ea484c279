"""`compile`: another way to compute the same run; everything around it stays as it is."""

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kdcache
from kdcache import TrainConfig
from kdcache.classroom import ClassroomLoss, HeatmapClassroomLoss, LossOutput
from kdcache.errors import Stopped, UsageError
from kdcache.store import TargetStore
from kdcache.train.compiling import compiled
from kdcache.train.run_folder import RunFolder
from tests.classroom.cases import make_batch
from tests.classroom.heatmap_cases import make_maps
from tests.train.comparing import same_run, timeless, weights
from tests.train.conftest import Run
from tests.train.test_resuming import stop_at

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")),
    reason="torch.compile needs a C++ compiler, and there is none here",
)
LOSSES = [
    ClassroomLoss(),
    ClassroomLoss(granularity="batch", round_shares=2, kd_scale="per-active-weight"),
    ClassroomLoss(weighting="rank", gate="off", standardise=True),
]


@needs_compiler
def test_a_compiled_run_is_a_run_like_any_other(train: Run, tmp_path: Path) -> None:
    """It resumes exactly, and its student is evaluated and saved under the plain names of its
    weights."""
    options: dict[str, Any] = {"epochs": 2, "samples": 64, "compile": True}
    records = list(train("whole", **options))
    with pytest.raises(Stopped):
        list(train("stopped", **options, should_stop=stop_at(6)))
    list(train("stopped", **options))
    assert same_run(tmp_path / "stopped", tmp_path / "whole")

    plain = list(train("plain", **{**options, "compile": False}))
    assert plain[0]["train_loss"] == pytest.approx(records[0]["train_loss"], rel=1e-3)
    assert weights(tmp_path / "whole").keys() == weights(tmp_path / "plain").keys()
    state = RunFolder(tmp_path / "whole").load_checkpoint()
    assert isinstance(state, dict)
    assert state["network"].keys() == weights(tmp_path / "plain").keys()
    found = kdcache.evaluate_checkpoint(tmp_path / "whole", dataset="digits", device="cpu")
    assert found["top1"] == pytest.approx(records[-1]["test_top1"])
    with pytest.raises(UsageError, match="compile"):
        list(train("whole", **{**options, "compile": False}))


@needs_compiler
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_compiled_loss_is_the_loss(loss: ClassroomLoss) -> None:
    """Values, gradients and everything that is recorded of them."""
    batch = make_batch(5, B=16, M=3, C=10)

    def outputs(of: Any) -> list[torch.Tensor]:
        student = batch.student_logits_BC.clone().requires_grad_()
        out: LossOutput = of(student, batch.labels_B, batch.mentor_logits_BMC)
        torch.autograd.backward(out.total)
        assert student.grad is not None
        assert out.seen_BKC.grad is not None
        described = [out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM, out.term_BM]
        losses = [out.total.detach(), out.task.detach(), out.mentor.detach()]
        return [*losses, student.grad, out.seen_BKC.grad, *described]

    for ours, plain in zip(
        outputs(compiled(loss, torch.device("cpu"))), outputs(loss), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


@needs_compiler
def test_a_compiled_loss_on_heatmaps_is_the_loss() -> None:
    given = make_maps(2, B=4)
    loss = HeatmapClassroomLoss(divergence="kl", kd_scale="per-active-weight")

    def outputs(of: Any) -> list[torch.Tensor]:
        student = given.student_BJHW.clone().requires_grad_()
        out: LossOutput = of(student, given.joints_BJ3, given.mentors_BMJHW)
        torch.autograd.backward(out.total)
        assert student.grad is not None
        assert out.seen_BKC.grad is not None
        assert out.joints is not None
        described = [getattr(out.joints, field.name) for field in fields(out.joints)]
        losses = [out.total.detach(), out.task.detach(), out.mentor.detach()]
        means = [out.active_BM, out.weight_BM, out.gap_BM, out.temperature_BM, out.term_BM]
        return [*losses, student.grad, out.seen_BKC.grad, *means, *described]

    ours = outputs(compiled(loss, torch.device("cpu")))
    for one, plain in zip(ours, outputs(loss), strict=True):
        torch.testing.assert_close(one, plain, rtol=1e-9, atol=1e-12)


@needs_compiler
@pytest.mark.slow
def test_many_compiled_students_are_each_as_alone(
    train: Run, store: TargetStore, tmp_path: Path
) -> None:
    """More different losses than torch compiles of one function unless told to."""
    options: dict[str, Any] = {"epochs": 1, "samples": 64, "compile": True}
    common = TrainConfig(
        student="r8", dataset="digits", store=str(store.root), batch_size=16, seed=1, **options
    )
    configs = [
        replace(common, switches={"tau": float(tau)}, out=str(tmp_path / f"{tau}"))
        for tau in range(1, 12)
    ]
    list(kdcache.train_sweep(configs))
    for tau in (1, 11):
        torch.compiler.reset()
        list(train(f"alone{tau}", **options, switches={"tau": float(tau)}))
        assert same_run(tmp_path / f"alone{tau}", tmp_path / f"{tau}")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("method", ["ce", "average", "dkd", "dist"])
def test_methods_compiled_are_the_methods(train: Run, method: str) -> None:
    options: dict[str, Any] = {"method": method, "epochs": 2, "samples": 64}
    compiled_records = list(train("compiled", **options, compile=True))
    for ours, plain in zip(compiled_records, list(train("plain", **options)), strict=True):
        assert ours["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-2)


def test_without_a_compiler(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"no-such-compiler.*leave --compile out"):
        list(train("run", compile=True))


@needs_compiler
def test_methods_that_look_inside_the_student_are_refused(train: Run) -> None:
    with pytest.raises(UsageError, match=r"amtml.*pooled features.*leave --compile out"):
        list(train("run", method="amtml", compile=True))


def test_a_run_from_before_there_was_compile_goes_on(train: Run, tmp_path: Path) -> None:
    whole = list(train("whole"))
    with pytest.raises(Stopped):
        list(train("old", should_stop=stop_at(3)))
    config = RunFolder(tmp_path / "old").config
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("compile")))
    list(train("old"))
    assert timeless(RunFolder(tmp_path / "old").records()) == timeless(whole)
