"""Stores from strangers: a right result or one clear error, whatever is in them.

Each is tried by every way in (`ways`) in a watched process (`watch`): no code of the store's, no
file outside of it, no more memory or time than promised (docs/security.md).
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.batches import try_stores
from tests.hostile.corpus import CASES, FAST, QUICK, THOROUGH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watched by Linux's /proc")

USED = [*FAST[::5], "chunk of NaN"]
READ, MORE, MORE_USED = QUICK[::2], sorted(THOROUGH)[::40], QUICK[3::12]

# Read without a complaint: nothing in these is wrong, nothing that is read, or only numbers are.
HARMLESS = (
    "an index", "mentor: a crowd", "mentor: preprocessing for", "mentor: std", "mentor: a batch",
    "mentor -x", "mentor aaa", "mentor os", "mentor r9", "mentor timm", "mentor torchvision",
    "mentor trap", "mentor wrn", "leftovers", "mentors/r99 is: ", "mentors/r8 is: ",
    "mentors/\\", ".lock is: ", ".writers is: ", "index/.zarray is: ", "index/.zattrs is: ",
    "mentors/r8/logits/c lies elsewhere", "mentors/r8/logits/c/1 lies elsewhere",
    "zstd chunk: level 255", "chunk of NaN", "chunk of infinity", "fitted: a ",
)  # fmt: skip


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return try_stores(tmp_path_factory.mktemp("fast"), FAST, ["reading"], timeout=120)


@pytest.mark.parametrize("case", FAST)
def test_a_hostile_store_is_read_or_refused(case: str, tried: dict[str, dict[str, Any]]) -> None:
    assert tried[case]["faults"] == []


def test_what_is_wrong_is_refused(tried: dict[str, dict[str, Any]]) -> None:
    passed = [case for case, found in tried.items() if not found["refused"]]
    assert [case for case in passed if not case.startswith(HARMLESS)] == []


def test_hostile_stores_are_trained_from_and_written_to(tmp_path: Path) -> None:
    tried = try_stores(tmp_path, USED, ["using", "writing"], timeout=120)
    assert {case: found["faults"] for case, found in tried.items() if found["faults"]} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "groups"),
    [(READ, ["reading"]), (MORE, ["reading"]), (MORE_USED, ["using", "writing"])],
    ids=["corpus", "every value in every place", "training and writing"],
)
def test_many_more_hostile_stores(cases: list[str], groups: list[str], tmp_path: Path) -> None:
    tried = try_stores(tmp_path, cases, groups, timeout=300)
    assert {case: found["faults"] for case, found in tried.items() if found["faults"]} == {}
    assert tried.keys() <= CASES.keys()


def test_targets_that_are_no_numbers_end_a_training(tmp_path: Path) -> None:
    (found,) = try_stores(tmp_path, ["chunk of NaN"], ["using"], timeout=60).values()
    assert found["faults"] == []
    assert "RunFailed" in found["refused"]["train_student"]
