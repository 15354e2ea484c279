"""Real processes, real signals: stopped anywhere, the same command goes on and ends the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.train.run_folder import RunFolder
from tests.test_precompute import snapshot

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kdcache", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # One thread: spinning OpenMP threads of two processes on few cores slow both tenfold.
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )


def finish(*arguments: object) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


slow = pytest.mark.slow
every_signal = pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=slow),
        pytest.param(signal.SIGKILL, -9, marks=slow),
    ],
)


@every_signal
def test_precompute(
    tmp_path: Path, digits_checkpoint: Callable[[str], Path], number: int, code: int
) -> None:
    command = ("precompute", "--mentors", "r20,r8", "--dataset", "digits", "--samples", 400,
               "--views", 40,
               "--checkpoint", f"r20={digits_checkpoint('r20')}",
               "--checkpoint", f"r8={digits_checkpoint('r8')}", "--store")  # fmt: skip
    finish(*command, tmp_path / "undisturbed")
    store = tmp_path / "S"
    process = start(*command, store)
    wait_until(lambda: len(list(store.rglob("commits/*.json"))) >= 4, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    if number != signal.SIGKILL:
        assert "Run the same command again to go on" in output
    committed = len(list(store.rglob("commits/*.json")))
    assert 4 <= committed < 80
    output = finish(*command, store)
    reused = [int(line.split()[1]) for line in output.splitlines() if "chunks reused" in line]
    assert sum(reused) == committed
    assert snapshot(store) == snapshot(tmp_path / "undisturbed")


@every_signal
def test_train_student(
    tmp_path: Path, digits_checkpoint: Callable[[str], Path], number: int, code: int
) -> None:
    finish("precompute", "--mentors", "r8", "--dataset", "digits", "--samples", 320,
           "--views", 4, "--store", tmp_path / "S",
           "--checkpoint", f"r8={digits_checkpoint('r8')}")  # fmt: skip
    command = ("train-student", "--student", "r14", "--dataset", "digits", "--samples", 320,
               "--epochs", 12,
               "--store", tmp_path / "S", "--out")  # fmt: skip
    finish(*command, tmp_path / "undisturbed")
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = start(*command, tmp_path / "run", "--checkpoint-every", 2)
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 1, process)
    time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    output = finish(*command, tmp_path / "run")
    assert "going on" in output
    ours, theirs = (
        [{k: v for k, v in r.items() if k != "seconds"} for r in RunFolder(f).records()]
        for f in (tmp_path / "run", tmp_path / "undisturbed")
    )
    assert ours == theirs
    student = "student.safetensors"
    assert (tmp_path / "run" / student).read_bytes() == (
        tmp_path / "undisturbed" / student
    ).read_bytes()


def test_a_second_signal_ends_it_at_once(
    tmp_path: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    process = start("precompute", "--mentors", "r8", "--dataset", "digits", "--views", 400,
                    "--checkpoint", f"r8={digits_checkpoint('r8')}", "--store",
                    tmp_path / "S")  # fmt: skip
    wait_until(lambda: bool(list((tmp_path / "S").rglob("commits/*.json"))), process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "Traceback" not in output
