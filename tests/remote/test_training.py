"""Training and the command line from a URL: what they are from the folder, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset
from kdcache.errors import StoreMismatch, Unreachable
from kdcache.mentors import Mentor
from kdcache.share import PushJob
from tests.remote.serving import Handler, serving
from tests.train.comparing import same_run


@pytest.fixture
def folder(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with a store of 100 digits: three views of two mentors in four blocks."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 32)
    root = tmp_path / "served" / "store"
    kdcache.precompute_targets(
        digits, digits_mentors, store=root, views=3, features=True, keep_logsumexp=True
    )
    return root.parent


OPTIONS = ("train-student", "--student", "r8", "--dataset", "digits", "--samples", "100",
           "--epochs", "4", "--batch-size", "16", "--views", "3")  # fmt: skip


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
@pytest.mark.parametrize("method", ["classroom", "ca-mkd"])
def test_a_student_from_a_url_is_the_one_from_the_folder(
    folder: Path, tmp_path: Path, method: str
) -> None:
    with serving(folder) as server:
        url = f"{server.url}/store"
        for name, store in (("path", folder / "store"), ("url", url)):
            run(*OPTIONS, "--method", method, "--store", store, "--out", tmp_path / name)
        assert len(server.chunks) == len(set(server.chunks))
        assert same_run(tmp_path / "path", tmp_path / "url")
        assert read_toml(tmp_path / "url" / "config.toml")["store"] == url


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
def test_labels_only_on_a_stores_views_fetches_no_target(folder: Path, tmp_path: Path) -> None:
    with serving(folder) as server:
        run(*OPTIONS, "--method", "ce", "--store", f"{server.url}/store", "--out", tmp_path / "ce")
        assert server.chunks == []


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
def test_a_run_whose_server_died_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.remote.fetching.MOST_AHEAD", 1)
    options: dict[str, Any] = {  # the store has three views
        "student": "r8",
        "dataset": "digits",
        "samples": 100,
        "epochs": 4,
        "views": 3,
    }
    with serving(folder) as server:
        url = f"{server.url}/store"
        list(kdcache.train_student(store=url, out=str(tmp_path / "undisturbed"), **options))
        monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "another home"))
        server.fail("/c/2/", *[503] * 10_000)
        dies = kdcache.train_student(store=url, out=str(tmp_path / "dies"), **options)
        with pytest.raises(Unreachable, match="run the same command again to go on"):
            list(dies)
        server.faults.clear()
        told: list[str] = []
        list(
            kdcache.train_student(
                store=url, out=str(tmp_path / "dies"), notify=told.append, **options
            )
        )
        assert any("going on in" in line for line in told)
    assert same_run(tmp_path / "undisturbed", tmp_path / "dies")


def test_inspect_and_verify_take_a_url(
    folder: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    with serving(folder) as server:
        url = f"{server.url}/store"
        local, remote = (
            json.loads(run("inspect", place, "--json")) for place in (folder / "store", url)
        )
        assert local == remote
        assert f"store        {url}\n" in run("inspect", url)
        checkpoints = [
            word
            for name in ("r8", "r14")
            for word in ("--checkpoint", f"{name}={digits_checkpoint(name)}")
        ]
        found = run("verify", url, "--recompute", 5, *checkpoints)
        assert "every byte read" in found
        assert "30 rows of mentors computed again" in found
        assert f"{url} is sound" in found
        chunk = next((folder / "store").glob("mentors/*/logits/c/1/2/0"))
        chunk.write_bytes(chunk.read_bytes()[:-1])
        result = CliRunner().invoke(main, ["verify", url])
        assert result.exit_code == 1
        assert f"{url}/{chunk.relative_to(folder / 'store')}" in result.output
        assert "--store STORE" in result.output


@pytest.mark.parametrize("part", ["/store/mentors/", "/c/0/", "/c/1/"])
def test_an_interruption_does_not_wait_for_the_network(
    folder: Path, tmp_path: Path, part: str
) -> None:
    asleep = threading.Event()

    def sleep(handler: Handler) -> None:
        asleep.wait(60)

    with serving(folder) as server:
        server.fail(part, *[sleep] * 100)
        command = [sys.executable, "-m", "kdcache", *OPTIONS, "--store", f"{server.url}/store"]
        environment = {**os.environ, "KDCACHE_HOME": str(tmp_path / "home")}
        training = subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any(part in path for path in server.asked):
            assert training.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        started = time.monotonic()
        training.send_signal(signal.SIGINT)
        if part == "/c/1/":  # between two epochs nobody asks whether to stop: "at once" is meant
            time.sleep(1)
            training.send_signal(signal.SIGINT)
        _, told = training.communicate(timeout=50)
        assert time.monotonic() - started < 15
        assert training.returncode == 130, told
        assert "Run the same command again to go on" in told
        assert "Traceback" not in told
        asleep.set()


@pytest.mark.filterwarnings("ignore:epoch 3 uses view 0 again")
def test_a_run_from_a_hub_goes_on_with_the_variant_that_it_began_with(
    folder: Path, tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    hub = str(tmp_path / "hub")
    options: dict[str, Any] = {
        "student": "r8",
        "dataset": "digits",
        "samples": 100,
        "epochs": 4,
    }
    PushJob(folder / "store", hub).run()
    list(kdcache.train_student(store=hub, out=str(tmp_path / "undisturbed"), **options))
    run = kdcache.train_student(store=hub, out=str(tmp_path / "run"), **options)
    next(run)
    run.close()
    kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "fuller", views=4, encoder="float32"
    )
    PushJob(tmp_path / "fuller", hub).run()
    with pytest.raises(StoreMismatch, match="mentor r8"):
        list(kdcache.train_student(store=hub, out=str(tmp_path / "run"), **options, views=3))
    list(kdcache.train_student(out=str(tmp_path / "run"), **options))
    assert same_run(tmp_path / "undisturbed", tmp_path / "run")
