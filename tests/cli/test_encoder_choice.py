"""`precompute --encoder auto --fidelity`: what it prints, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS, FITTED
from kdcache.errors import UsageError
from kdcache.mentors import Mentor, MentorPool
from kdcache.precompute import PrecomputeJob
from kdcache.store import open_store

Kdcache = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, digits_checkpoint: Callable[[str], Path]) -> Kdcache:
    def run(*arguments: object) -> Result:
        words = ["precompute", "--mentors", "r8", "--dataset", "digits", "--samples", 100,
                 "--views", 1, "--store", tmp_path / "s", "--checkpoint",
                 f"r8={digits_checkpoint('r8')}", *arguments]  # fmt: skip
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        assert "Traceback" not in result.output
        return result

    return run


def test_a_dry_run_tells_what_encoders_cost_and_writes_nothing(
    command: Kdcache, tmp_path: Path
) -> None:
    told = command("--encoder", "auto", "--fidelity", "1e-4", "--dry-run")
    assert told.exit_code == 0, told.output
    assert "r8 on 100 targets, mean KL at T = 1, 4, 12 at most 0.0001: " in told.output
    for name in (*ENCODERS, *FITTED):
        assert f"\n  {name} " in told.output
    assert "bytes a row, KL" in told.output
    assert not (tmp_path / "s").exists()
    done = command("--encoder", "auto", "--fidelity", "1e-4")
    assert done.exit_code == 0, done.output
    assert done.output.split("store ")[0] == told.output.split("store ")[0]  # calibrated alike
    again = command("--encoder", "auto")
    assert "nothing to compute" in again.output
    assert "targets, mean KL" not in again.output


@pytest.mark.parametrize("encoder", FITTED)
def test_mentors_run_again_say_the_same_within_the_bound(
    command: Kdcache, tmp_path: Path, encoder: str
) -> None:
    assert command("--encoder", encoder).exit_code == 0
    again = CliRunner().invoke(
        main,
        ["verify", str(tmp_path / "s"), "--recompute", "20", "--checkpoint",
         f"r8={tmp_path / 'checkpoints' / 'r8-0.safetensors'}", "--json"],
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    told = json.loads(again.output)
    assert (told["ok"], told["recomputed"], told["not_checked"]) == (True, 20, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "residul"], "unknown encoder 'residul'. Did you mean residual"),
        (["--encoder", "nonsense"], "Known: auto, coarse, float16, float32, heatmap8, residual,"),
        (["--fidelity", "-1"], "a mean KL divergence of at least 0, such as 1e-4; got -1.0"),
        (["--fidelity", "nan"], "a mean KL divergence of at least 0, such as 1e-4; got nan"),
        (["--fidelity", "inf"], "a mean KL divergence of at least 0, such as 1e-4; got inf"),
        (["--fidelity", "0"], "0 asks for every bit, which --encoder float16 does not"),
        (["--encoder", "residual", "--fidelity", "0"], "which --encoder residual does not"),
        (["--encoder", "sqrt8", "--fidelity", "0"], "--encoder sqrt8 does not keep; float32 does"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_forward_pass(
    command: Kdcache,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("a mentor was run")

    monkeypatch.setattr(MentorPool, "targets", run)
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("encoder", ["sqrt8", "residual", "coarse"])
def test_a_fidelity_that_is_not_reached_is_refused_with_the_numbers(
    command: Kdcache, tmp_path: Path, encoder: str
) -> None:
    result = command("--encoder", encoder, "--fidelity", "1e-12")
    assert result.exit_code == 2, result.output
    assert "mentor 'r8': not within a mean KL of 1e-12 on 100 targets" in result.output
    assert f"\n  {encoder}: " in result.output
    assert "Ask for another --encoder, or a larger --fidelity" in result.output
    assert not (tmp_path / "s").exists()


def test_fidelity_0_takes_every_bit(command: Kdcache, tmp_path: Path) -> None:
    done = command("--encoder", "auto", "--fidelity", "0")
    assert done.exit_code == 0, done.output
    assert open_store(tmp_path / "s").mentor("r8").encoder.name == "float32"


def test_a_fidelity_that_is_no_number_is_refused(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    with pytest.raises(UsageError, match="--fidelity is a mean KL divergence"):
        PrecomputeJob(digits, digits_mentors, store=tmp_path / "s", fidelity="1e-4")  # type: ignore[arg-type]
