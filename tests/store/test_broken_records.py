"""Records that are not what was written, or of something else: broken, not believed, healed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.errors import DamagedTargets
from kdcache.store import StoredMentor
from tests.store.small import (
    SmallStore,
    alter,
    block_of,
    commit_rows,
    make_store,
    random_targets,
    resealed,
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of 7 samples in two blocks (4 and 3) of two mentors, not indexed."""
    block_of(monkeypatch, 4)
    return make_store(tmp_path / "store", num_samples=7, mentors=["r20", "r8"])


@pytest.fixture
def stored(small: SmallStore) -> StoredMentor:
    return small.open().mentor("r20")


def require_broken_then_healed(small: SmallStore, reason: str, path: Path | None = None) -> None:
    """View 1, block 0 of r20 is refused for that reason, all else reads; committing heals it."""
    store = small.open()
    broken = store.mentor("r20").broken
    assert {wrong.key for wrong in broken} == {(1, 0)}
    assert (1, 0) not in store.mentor("r20").commits
    with pytest.raises(DamagedTargets, match=reason) as caught:
        store.targets(view=1, index=np.arange(7), mentors=["r20"])
    assert "mentor 'r20', view 1, block 0 are damaged" in str(caught.value)
    assert path is None or str(path) in str(caught.value)
    with pytest.raises(DamagedTargets, match=reason):
        store.usable_views(["r20"])
    got = store.targets(view=0, index=np.arange(7))
    assert np.array_equal(got[:, 0], small.decoded["r20"][0])
    assert store.usable_views(["r8"]) == [0, 1]

    commit_rows(store, "r20", (1, 0), random_targets(2, 7, 3, seed=0)[1, :4])
    healed = small.open()
    assert healed.mentor("r20").broken == ()
    got = healed.targets(view=1, index=np.arange(7))
    assert np.array_equal(got[:, 0], small.decoded["r20"][1])
    assert np.array_equal(got[:, 1], small.decoded["r8"][1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes without a seal"),
        (b"\xff\xfe", "without a seal"),
        (b"{}", "without a seal"),
        (resealed(b'{"seal": "' + b"0" * 64 + b'"}'), "not a commit record of this format"),
        (
            resealed(b'{"view": 1, "seal": "' + b"0" * 64 + b'"}'),
            "not a commit record of this format",
        ),
        (b" " * 20_000, "20,000 bytes or more, at most 16,384 are read"),
    ],
)
def test_a_record_that_cannot_be_read(
    small: SmallStore, stored: StoredMentor, content: bytes, reason: str
) -> None:
    path = stored.array.commits / stored.commits[1, 0].file_name
    path.write_bytes(content)
    require_broken_then_healed(small, reason, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({key: "1"}, "counts must be integers") for key in ("view", "rows", "bytes", "correct")),
        ({"rows": -1}, "counts must be integers"),
        ({"rows": True}, "counts must be integers"),
        ({"block": 1.0}, "counts must be integers"),
        ({"bytes": 2**63}, "counts must be integers"),
        ({"sha256": "x"}, "checksums must be hexadecimal"),
        ({"crc32c": "ABCDEF01"}, "checksums must be hexadecimal"),
        ({"identity": None}, "checksums must be hexadecimal"),
        ({"error_sums": {"kl_t1": "0"}}, "error sums must be numbers"),
        ({"error_sums": []}, "not a commit record of this format"),
        ({"more": 1}, "not a commit record of this format"),
        ({"crc32c": "00000000"}, r"holds the record of another chunk \(000001.000000.00000000"),
        ({"view": 0}, "holds the record of another chunk"),
        ({"rows": 3}, "its record states 3 rows of block 0"),
        ({"bytes": 4}, "its record states 4 bytes, a chunk has 24"),
        ({"bytes": 2**40}, "its record states 1099511627776 bytes, a chunk has 24"),
        ({"identity": "0" * 64}, "of targets of another mentor, encoder or store"),
    ],
)
def test_a_forged_record(
    small: SmallStore, stored: StoredMentor, change: dict[str, Any], reason: str
) -> None:
    path = stored.array.commits / stored.commits[1, 0].file_name
    whole = path.read_bytes()
    alter(path, lambda record: record.update(change), reseal=False)
    (wrong,) = small.open().mentor("r20").broken
    assert wrong.reason == "its content is not what was sealed"
    path.write_bytes(whole)
    alter(path, lambda record: record.update(change))
    require_broken_then_healed(small, reason, path)


def test_a_record_of_a_block_beyond_the_last(small: SmallStore, stored: StoredMentor) -> None:
    path = stored.array.commits / stored.commits[1, 0].file_name
    document = json.loads(path.read_bytes())
    new = path.with_name(path.name.replace("000001.000000", "000001.000002"))
    new.write_bytes(resealed(json.dumps({**document, "block": 2}).encode()))
    (wrong,) = small.open().mentor("r20").broken
    assert (wrong.key, wrong.reason) == ((1, 2), "its record states 4 rows of block 2")


def test_a_record_under_anothers_name(small: SmallStore, stored: StoredMentor) -> None:
    first, second = (stored.commits[view, 0].file_name for view in (0, 1))
    shutil.copy(stored.array.commits / first, stored.array.commits / second)
    require_broken_then_healed(small, "holds the record of another chunk")


def put(small: SmallStore, source: StoredMentor) -> None:
    """Chunk and record of another array in place of r20's."""
    target = small.open().mentor("r20")
    (target.array.commits / target.commits[1, 0].file_name).unlink()
    shutil.copy(source.array.chunk(1, 0), target.array.chunk(1, 0))
    name = source.commits[1, 0].file_name
    shutil.copy(source.array.commits / name, target.array.commits / name)


STRANGERS = "its record is of targets of another mentor, encoder or store"


def test_a_chunk_and_its_record_of_another_mentor(small: SmallStore) -> None:
    put(small, small.open().mentor("r8"))
    require_broken_then_healed(small, STRANGERS)


def test_a_chunk_and_its_record_of_other_views(small: SmallStore, tmp_path: Path) -> None:
    """Same mentor, same shapes, other samples: only the identity tells."""
    other = make_store(tmp_path / "other", num_samples=8, index_N=range(1, 8), mentors=["r20"])
    put(small, other.open().mentor("r20"))
    require_broken_then_healed(small, STRANGERS)


def test_a_chunk_and_its_record_of_another_encoder(small: SmallStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", num_samples=7, mentors=["r20"], encoder="sqrt8")
    put(small, other.open().mentor("r20"))
    require_broken_then_healed(small, STRANGERS)


def test_the_same_chunk_of_a_copy_is_the_same(small: SmallStore, tmp_path: Path) -> None:
    """What a merge of two stores of one fingerprint would do."""
    other = make_store(tmp_path / "other", num_samples=7, mentors=["r20"])
    put(small, other.open().mentor("r20"))
    assert small.open().mentor("r20").broken == ()
    assert small.open().usable_views(["r20", "r8"]) == [0, 1]


def test_two_records_of_one_chunk(small: SmallStore, stored: StoredMentor) -> None:
    """Each right in itself; which one the chunk is of, nobody knows."""
    record = stored.commits[1, 0]
    path = stored.array.commits / record.file_name
    document = {**json.loads(path.read_bytes()), "crc32c": "00000000"}
    twin = path.with_name(path.name.replace(record.crc32c, "00000000"))
    twin.write_bytes(resealed(json.dumps(document).encode()))
    require_broken_then_healed(small, "two records name this chunk")
    assert not twin.exists()


def test_a_link_for_a_record(small: SmallStore, stored: StoredMentor, tmp_path: Path) -> None:
    path = stored.array.commits / stored.commits[1, 0].file_name
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    require_broken_then_healed(small, "it is a link", path)
    assert (tmp_path / "elsewhere.json").exists()
