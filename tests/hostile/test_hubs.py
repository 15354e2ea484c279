"""Hubs that strangers wrote to: a right result or one clear error, whatever is in them.

Each is tried by every way in (`hub_ways`) in a watched process (`watch`): no code of the hub's, no
file outside of the mirror (or, by a push, of the hub), no more memory or time than promised.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.batches import run_module, try_stores
from tests.hostile.hub_corpus import FAST_HUBS, HUB_CASES, QUICK_HUBS, THOROUGH_HUBS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watched by Linux's /proc")

TRIED = FAST_HUBS[::12]  # the campaign tries more, `tests.hostile.trial` all
TRAINED = FAST_HUBS[::40]
GROUPS = ["hub-reading", "hub-writing"]

# A push may be refused where the hub's own folders lead elsewhere or are none, and where the hub is
# of another format; everything else that strangers leave there must not keep anybody from pushing.
REFUSES_PUSHES = (
    "chunks", "lists", "pushes", "stores", "mentors is: file", "mentors lies", "mentors is: link",
    "its folder", "the store's folder", "hub.json lies", "index.json lies", "store.json lies",
    "a push lies", "a chunk lies", "a list lies", "hub.json is: link to a",
    "hub.json is: link to /", "hub.json is: link to n", "hub.json is: folder", "index.json is: ",
    "store.json is: ", "a push is: ", "a list is: ", "a chunk is: ", "README.md is: ",
    "an entry is: ", "hub.json: hub format", "index.json: hub format", "store.json: hub format",
    "hub: hub =", "index: hub =", "store: hub =",
    "hub.json alone",
)  # fmt: skip


def refused_pushes(tried: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Cases in which the victim could not push, though nothing should have kept him from it."""
    return {
        case: found["refused"]["push"]
        for case, found in tried.items()
        if "push" in found["refused"] and not case.startswith(REFUSES_PUSHES)
    }


def test_hostile_hubs_are_used_or_refused_and_keep_nobody_from_pushing(tmp_path: Path) -> None:
    tried = try_stores(tmp_path, TRIED, GROUPS, timeout=300)
    assert tried.keys() == set(TRIED)
    assert {case: found["faults"] for case, found in tried.items() if found["faults"]} == {}
    assert refused_pushes(tried) == {}


def test_training_from_hostile_hubs(tmp_path: Path) -> None:
    tried = try_stores(tmp_path, TRAINED, ["hub-using"], timeout=200)
    assert {case: found["faults"] for case, found in tried.items() if found["faults"]} == {}


def test_any_value_in_any_place_of_a_hub(tmp_path: Path) -> None:
    done = run_module("properties", tmp_path / "laboratory", 2, "hubs", timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "hubs" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [QUICK_HUBS[::8], sorted(THOROUGH_HUBS)[::80]],
    ids=["every eighth", "any value in any place"],
)
def test_many_more_hostile_hubs(cases: list[str], tmp_path: Path) -> None:
    tried = try_stores(tmp_path, cases, GROUPS, timeout=1500)
    assert {case: found["faults"] for case, found in tried.items() if found["faults"]} == {}
    assert refused_pushes(tried) == {}
    assert tried.keys() <= HUB_CASES.keys()


@pytest.mark.slow
def test_many_more_values_and_bytes_in_hubs(tmp_path: Path) -> None:
    done = run_module("properties", tmp_path / "laboratory", 40, "hubs", timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_the_fuzzer_of_hubs_finds_nothing_in_a_moment() -> None:
    done = run_module("fuzz", "--hubs", "--minutes", 0.5, "--seed", 7, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["inputs"] > 10
