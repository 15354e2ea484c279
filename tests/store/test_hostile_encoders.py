"""Fitted encoders that strangers write: refused, or damage that is healed; nothing runs."""

import base64
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.datasets import ImageDataset
from kdcache.errors import DamagedTargets, StoreError
from kdcache.mentors import Mentor
from kdcache.store import TargetStore, open_store, verify_store
from tests.store.mending import heal
from tests.store.small import alter, alter_attributes, files_of

pytestmark = pytest.mark.usefixtures("small_blocks")


def contents(root: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files_of(root).items()}


def restate(store: TargetStore, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes r8's encoder in both copies, sealed anew."""
    array = store.mentor("r8").array
    alter_attributes(array.metadata, lambda found: change(found["encoder"]))
    alter(array.spare_encoder, lambda found: change(found["encoder"]))


HOSTILE: dict[str, dict[str, Any]] = {
    "no table": {"table": ""},
    "a short table": {"table": base64.b64encode(bytes(99)).decode()},
    "no base64": {"table": "%" * 136},
    "a table of megabytes": {"table": "A" * 3_000_000},
    "a table of numbers": {"table": [0] * 100},
    "no number": {"fine": None},
    "negative": {"coarse": -1.0},
    "huge": {"fine": 1e308},
    "tiny": {"coarse": 1e-308},
    "finer beyond the knee": {"coarse": 2.0**15},
    "a knee beyond": {"knee": 256},
    "a long knee": {"knee": 10**15},
    "a wrong bound": {"root_error": 1e-9},
    "another member": {"another": 1},
    "another name": {"name": "residual2"},
    "a name that is none": {"name": ["residual"]},
    "other arithmetic": {"arithmetic": "target = stored"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_encoder_is_refused_and_the_other_mentor_read(
    fitted_store: TargetStore, case: str
) -> None:
    said = fitted_store.targets(0, fitted_store.index_N, ["r14"])
    restate(fitted_store, lambda encoder: encoder.update(HOSTILE[case]))
    tracemalloc.start()
    opened = open_store(fitted_store.root)
    assert np.array_equal(opened.targets(0, opened.index_N, ["r14"]), said)
    with pytest.raises(StoreError, match="which this version of kdcache cannot decode") as caught:
        opened.mentor("r8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 2000
    size = sum(path.stat().st_size for path in fitted_store.root.rglob("*") if path.is_file())
    assert peak < 64 * size + 2**22  # and what reading the first fitted_store takes once
    assert not verify_store(fitted_store.root).ok


def test_a_table_of_others_is_no_ones_targets(fitted_store: TargetStore) -> None:
    """A sound description, but not that of what was committed: the records tell."""
    other = fitted_store.mentor("r14").encoder.describe()
    restate(fitted_store, lambda encoder: encoder.update(other))
    with pytest.raises(DamagedTargets, match="of targets of another mentor, encoder or store"):
        open_store(fitted_store.root).targets(0, fitted_store.index_N, ["r8"])


def test_what_differs_is_told_without_its_table(fitted_store: TargetStore) -> None:
    array = fitted_store.mentor("r8").array
    alter_attributes(array.metadata, lambda found: found.update(another=1))
    with pytest.raises(StoreError, match="attributes is") as caught:
        open_store(fitted_store.root).mentor("r8")
    assert len(caught.value.args[0]) < 1500


@pytest.mark.parametrize("value", [None, [], {}, "text", {"encoder": []}, {"encoder": "residual"}])
def test_a_hostile_second_copy_is_damage_and_made_anew(
    fitted_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], value: Any
) -> None:
    before = contents(fitted_store.root)
    path = fitted_store.mentor("r8").array.spare_encoder
    sealed = json.loads(path.read_text())

    def change(document: dict[str, Any]) -> None:
        document.clear()
        document.update({"encoder": value, "seal": sealed["seal"]})

    alter(path, change)
    assert not verify_store(fitted_store.root).ok
    heal(fitted_store, digits, digits_mentors)
    assert contents(fitted_store.root) == before


def test_links_are_not_followed_in_healing(
    fitted_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], tmp_path: Path
) -> None:
    path, outside = fitted_store.mentor("r8").array.spare_encoder, tmp_path / "outside.json"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)
    assert not verify_store(fitted_store.root).ok
    before = outside.read_bytes()
    heal(fitted_store, digits, digits_mentors)
    assert outside.read_bytes() == before
    assert not path.is_symlink()
    assert verify_store(fitted_store.root).ok
