"""Stores changed at random: hypothesis over documents and bytes, and the fuzzer for a moment."""

import json
import sys
from pathlib import Path

import pytest

from tests.hostile.batches import run_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watched by Linux's /proc")


def test_any_value_in_any_place_and_any_bytes_anywhere(tmp_path: Path) -> None:
    done = run_module("properties", tmp_path / "laboratory", 20, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "tried" in done.stdout


@pytest.mark.slow
def test_many_more_values_and_bytes(tmp_path: Path) -> None:
    done = run_module("properties", tmp_path / "laboratory", 100, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_the_fuzzer_finds_nothing_in_a_moment() -> None:
    done = run_module("fuzz", "--minutes", 0.25, "--seed", 7, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["inputs"] > 10
