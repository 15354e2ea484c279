"""The gathered index of commits: it spares opening records, remembers them, and is no truth."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import DamagedTargets
from kdcache.store import ArrayLocation, StoredMentor, write_commit_index
from kdcache.store.commits import read_commits
from tests.store.small import (
    SmallStore,
    alter,
    block_of,
    commit_rows,
    index_damage,
    make_store,
    random_targets,
    resealed,
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of 7 samples in two blocks (4 and 3) of one mentor, indexed."""
    block_of(monkeypatch, 4)
    made = make_store(tmp_path / "store", num_samples=7)
    stored = made.open().mentor("r20")
    write_commit_index(stored.array, stored.commits.values())
    return made


@pytest.fixture
def stored(small: SmallStore) -> StoredMentor:
    return small.open().mentor("r20")


def without_index(stored: StoredMentor) -> None:
    stored.array.commit_index.unlink()


def stale_index(stored: StoredMentor) -> None:
    write_commit_index(stored.array, [stored.commits[0, 0], stored.commits[1, 1]])


def garbage_index(stored: StoredMentor) -> None:
    stored.array.commit_index.write_bytes(b"\xff\x00garbage")


def truncated_index(stored: StoredMentor) -> None:
    stored.array.commit_index.write_bytes(stored.array.commit_index.read_bytes()[:-20])


def empty_index(stored: StoredMentor) -> None:
    stored.array.commit_index.write_bytes(b"")


def edited_index(stored: StoredMentor) -> None:
    alter(stored.array.commit_index, lambda d: d["records"].popitem(), reseal=False)


def index_without_records(stored: StoredMentor) -> None:
    alter(stored.array.commit_index, lambda document: document.pop("records"))


def index_of_a_list(stored: StoredMentor) -> None:
    alter(stored.array.commit_index, lambda document: document.update(records=[1, 2]))


def folder_for_an_index(stored: StoredMentor) -> None:
    stored.array.commit_index.unlink()
    stored.array.commit_index.mkdir()


SOUND = {without_index, stale_index}


@pytest.mark.parametrize(
    "spoil",
    [
        without_index,
        stale_index,
        garbage_index,
        truncated_index,
        empty_index,
        edited_index,
        index_without_records,
        index_of_a_list,
        folder_for_an_index,
    ],
)
def test_the_index_is_never_the_truth(
    small: SmallStore, stored: StoredMentor, spoil: Callable[[StoredMentor], None]
) -> None:
    array = stored.array
    whole = array.commit_index.read_bytes()
    assert index_damage(array) is None
    spoil(stored)
    assert (index_damage(array) is None) is (spoil in SOUND)
    found = read_commits(array, stored.identity)
    assert (found.records, found.broken) == (stored.commits, ())
    got = small.open().targets(view=1, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1])
    if spoil is not folder_for_an_index:
        write_commit_index(array, small.open().mentor("r20").commits.values())
        assert array.commit_index.read_bytes() == whole


@pytest.mark.parametrize("value", [5, None, {}, {"view": 0}, []])
def test_an_index_with_a_garbage_entry_is_not_used(stored: StoredMentor, value: object) -> None:
    name = stored.commits[0, 1].file_name
    alter(stored.array.commit_index, lambda document: document["records"].update({name: value}))
    assert index_damage(stored.array) is not None
    found = read_commits(stored.array, stored.identity)
    assert (found.records, found.broken) == (stored.commits, ())


def test_an_index_that_is_too_large_is_not_read(stored: StoredMentor) -> None:
    with open(stored.array.commit_index, "r+b") as file:
        file.truncate(2**33)  # takes no space on disk
    damage = index_damage(stored.array)
    assert damage is not None
    assert "bytes or more, at most" in damage
    found = read_commits(stored.array, stored.identity)
    assert (found.records, found.broken) == (stored.commits, ())


def test_the_index_spares_reading_the_records(stored: StoredMentor) -> None:
    for record in stored.commits.values():
        (stored.array.commits / record.file_name).write_bytes(b"")  # listed, but not opened
    found = read_commits(stored.array, stored.identity)
    assert (found.records, found.broken) == (stored.commits, ())
    found = read_commits(stored.array, stored.identity, use_index=False)
    assert found.records == {}
    assert [wrong.key for wrong in found.broken] == sorted(stored.commits)


def test_the_index_is_its_records_by_file_name(stored: StoredMentor) -> None:
    content = stored.array.commit_index.read_bytes()
    assert content == resealed(content)
    document = json.loads(content)
    assert set(document) == {"records", "seal"}
    for name, record in document["records"].items():
        alone = json.loads((stored.array.commits / name).read_bytes())
        assert len(alone.pop("seal")) == 64
        assert record == alone
    assert len(document["records"]) == 4


# What it knows and is gone


def lose(array: ArrayLocation, *records: str) -> None:
    for name in records:
        (array.commits / name).unlink()


def test_a_lost_record_that_the_index_knows_is_damage(
    small: SmallStore, stored: StoredMentor
) -> None:
    path = stored.array.commits / stored.commits[1, 1].file_name
    path.unlink()
    store = small.open()
    (wrong,) = store.mentor("r20").broken
    assert (wrong.key, wrong.path, wrong.reason) == ((1, 1), path, "the commit record is gone")
    with pytest.raises(DamagedTargets, match="view 1, block 1 are damaged: the commit record is"):
        store.targets(view=1, index=np.arange(7))
    with pytest.raises(DamagedTargets, match="the commit record is gone"):
        store.usable_views(["r20"])
    assert store.usable_views(["r20"], wanted=[0]) == [0]
    got = store.targets(view=1, index=np.arange(4))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1, :4])


def test_a_lost_folder_of_records_that_the_index_knows_is_damage(
    small: SmallStore, stored: StoredMentor
) -> None:
    shutil.rmtree(stored.array.commits)
    with pytest.raises(DamagedTargets, match="the commit record is gone"):
        small.open().usable_views(["r20"])


def test_committing_again_heals_it(small: SmallStore, stored: StoredMentor) -> None:
    lose(stored.array, stored.commits[1, 1].file_name)
    commit_rows(small.open(), "r20", (1, 1), random_targets(2, 7, 3)[1, 4:])
    healed = small.open()
    assert healed.mentor("r20").broken == ()
    assert healed.mentor("r20").commits == stored.commits
    assert np.array_equal(healed.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


def test_an_index_that_knows_of_an_older_record_of_a_chunk_does_not_mind(
    small: SmallStore, stored: StoredMentor
) -> None:
    """Healed with other bytes, and the index was not written since."""
    stored.array.chunk(1, 1).unlink()
    targets = np.full((3, 3), -1.0986, dtype=np.float32)
    new = commit_rows(small.open(), "r20", (1, 1), targets)
    assert new != stored.commits[1, 1]
    found = read_commits(stored.array, stored.identity)
    assert found.broken == ()
    assert found.records == {**stored.commits, (1, 1): new}
