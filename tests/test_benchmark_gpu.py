"""`python -m benchmarks gpu`: a clear word where there is no GPU, and the same code on the CPU."""

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.waiting import covered

moments = st.integers(0, 50)


@given(st.lists(st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair)))))
def test_covered_time_counts_every_moment_once(intervals: list[tuple[int, int]]) -> None:
    expected = {at for begin, end in intervals for at in range(begin, end)}
    assert covered(iter(intervals)) == len(expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    result = CliRunner().invoke(main, ["gpu"])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "finds no CUDA device here" in line
    assert "--device cpu --quick" in line


def test_a_device_that_is_not_there() -> None:
    result = CliRunner().invoke(main, ["gpu", "--device", "cuda:99"])
    assert result.exit_code == 1
    assert "'cuda:99' cannot be used here" in result.output


def test_the_same_code_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDCACHE_DATA", raising=False)
    result = CliRunner().invoke(main, ["gpu", "--device", "cpu", "--quick"])
    assert result.exit_code == 0, result.output
    sources = ["labels only", "from the store, 4", "from the store, 6", "online, 4", "online, 6"]
    for expected in (*(f"epoch {source}" for source in sources), "the device waits", ", bf16"):
        assert expected in result.output
    assert ", compiled" in result.output or "compiled epochs" in result.output
