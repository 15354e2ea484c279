"""`train_mentor`: a checkpoint and its sidecar in the library, found by name afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest

import kdcache
from kdcache.datasets import open_dataset
from kdcache.errors import Stopped
from kdcache.mentors import load_mentor
from tests.train.test_resuming import Died, die_at


def test_a_trained_mentor_is_found_by_its_name(kdcache_home: Path) -> None:
    records = list(kdcache.train_mentor("r8", dataset="digits", epochs=4, seed=2))
    sidecar = json.loads((kdcache_home / "mentors" / "digits" / "resnet8.json").read_text())
    assert sidecar["architecture"] == "resnet8"
    assert sidecar["test_top1"] == records[-1]["test_top1"] > 50
    test = open_dataset("digits", "test")
    mentor = load_mentor("resnet8", test)
    assert mentor.name == "r8"
    assert mentor.preprocessing == test.preprocessing
    store = kdcache.precompute_targets(test, ["r8"], recipe="none")
    found = kdcache.inspect_store(store)
    assert found["mentors"][0]["accuracy"] == pytest.approx(sidecar["test_top1"])


def test_a_mentor_that_died_within_an_epoch_goes_on_there(kdcache_home: Path) -> None:
    options: dict[str, Any] = {"dataset": "digits", "epochs": 1, "checkpoint_every": 5}
    list(kdcache.train_mentor("r8", **options))
    checkpoint = kdcache_home / "mentors" / "digits" / "resnet8.safetensors"
    undisturbed = checkpoint.read_bytes()
    checkpoint.unlink()
    out = str(kdcache_home / "again")
    with pytest.raises(Died):
        list(kdcache.train_mentor("r8", **options, out=out, progress=die_at(8)))
    steps: list[int] = []
    again = kdcache.train_mentor(
        "r8", **options, out=out, progress=lambda done, total: steps.append(done)
    )
    list(again)
    assert steps[0] == 6
    assert checkpoint.read_bytes() == undisturbed


def test_a_stopped_mentor_is_not_in_the_library_until_it_is_finished(kdcache_home: Path) -> None:
    polls = iter(range(3))
    with pytest.raises(Stopped):
        list(
            kdcache.train_mentor(
                "r8", dataset="digits", epochs=1, should_stop=lambda: next(polls, None) is None
            )
        )
    checkpoint = kdcache_home / "mentors" / "digits" / "resnet8.safetensors"
    assert not checkpoint.exists()
    list(kdcache.train_mentor("r8", dataset="digits", epochs=1))
    assert checkpoint.exists()
