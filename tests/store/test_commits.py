"""Commits: records decide what exists, whole chunks only, the first writer wins."""

import json
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from kdcache.errors import MissingTargets, StoreError
from kdcache.store import ArrayLocation, CommitRecord, commit_chunk, is_intact, write_commit_index
from kdcache.store.commits import crc32c, load_commits
from tests.store.small import SmallStore, block_of, commit_rows, make_store, random_targets


def plain_crc32c(data: bytes) -> int:
    """CRC-32C bit by bit: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of 7 samples in two blocks (4 and 3) of one mentor."""
    block_of(monkeypatch, 4)
    return make_store(tmp_path / "store", num_samples=7)


@pytest.fixture
def array(small: SmallStore) -> ArrayLocation:
    return small.array("r20")


def commit(
    array: ArrayLocation, payload: bytes, *, view: int = 5, replace: bool = False
) -> CommitRecord:
    return commit_chunk(
        array, (view, 0), payload, rows=2, correct=1, error_sums={"kl_t1": 0.5}, replace=replace
    )


def test_the_checksum_is_crc32c() -> None:
    assert plain_crc32c(b"123456789") == 0xE3069283  # the published check value
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == plain_crc32c(b"") == 0


def test_a_chunk_file_is_the_payload_and_its_crc32c(array: ArrayLocation) -> None:
    payload = bytes(range(24))
    record = commit(array, payload)
    assert array.chunk(5, 0) == array.folder / "c" / "5" / "0" / "0"
    assert array.chunk(5, 0).read_bytes() == payload + struct.pack("<I", plain_crc32c(payload))
    assert record == CommitRecord(
        view=5,
        block=0,
        rows=2,
        bytes=24,
        crc32c=f"{plain_crc32c(payload):08x}",
        sha256=sha256(payload).hexdigest(),
        correct=1,
        error_sums={"kl_t1": 0.5},
    )


def test_a_record_is_named_by_view_block_and_checksum(array: ArrayLocation) -> None:
    record = commit(array, b"abcd")
    path = array.commits / f"000005.000000.{plain_crc32c(b'abcd'):08x}.json"
    assert record.file_name == path.name
    assert json.loads(path.read_bytes()) == {
        "view": 5,
        "block": 0,
        "rows": 2,
        "bytes": 4,
        "crc32c": record.crc32c,
        "sha256": record.sha256,
        "correct": 1,
        "error_sums": {"kl_t1": 0.5},
    }
    assert load_commits(array)[5, 0] == record


def test_the_last_block_is_padded_to_a_whole_chunk(small: SmallStore, array: ArrayLocation) -> None:
    sizes = {array.chunk(view, block).stat().st_size for view in (0, 1) for block in (0, 1)}
    assert sizes == {4 * 3 * 2 + 4}
    assert [load_commits(array)[0, block].rows for block in (0, 1)] == [4, 3]
    padding = np.frombuffer(array.chunk(0, 1).read_bytes()[:-4], dtype=np.float16)[9:]
    assert np.isnan(padding).all()


def test_a_second_committer_gets_the_firsts_record(array: ArrayLocation) -> None:
    first = commit(array, b"first")
    assert commit(array, b"other") == first
    assert array.chunk(5, 0).read_bytes().startswith(b"first")
    assert load_commits(array)[5, 0] == first


def test_of_many_at_once_one_is_first_and_the_chunk_is_its(array: ArrayLocation) -> None:
    payloads = [bytes([number]) * 500 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        records = set(map(repr, pool.map(lambda payload: commit(array, payload), payloads)))
    assert len(records) == 1
    winner = load_commits(array)[5, 0]
    assert records == {repr(winner)}
    content = array.chunk(5, 0).read_bytes()
    assert sha256(content[:-4]).hexdigest() == winner.sha256
    assert len(list(array.commits.glob("000005.*"))) == 1


def test_replacing_withdraws_the_old_record(array: ArrayLocation) -> None:
    commit(array, b"old")
    new = commit(array, b"newer", replace=True)
    assert [path.name for path in array.commits.glob("000005.*")] == [new.file_name]
    assert array.chunk(5, 0).read_bytes()[:-4] == b"newer"
    assert load_commits(array)[5, 0] == new


def test_replacing_what_is_not_there_commits_it(array: ArrayLocation) -> None:
    record = commit(array, b"x", replace=True)
    assert load_commits(array)[5, 0] == record


def test_replacing_heals_a_damaged_chunk(small: SmallStore, array: ArrayLocation) -> None:
    array.chunk(1, 0).write_bytes(b"rubbish")
    rows = random_targets(2, 7, 3)[1, :4]
    commit_rows(small.open(), "r20", (1, 0), rows, replace=True)
    got = small.open().targets(view=1, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1])


def test_nothing_is_left_aside(array: ArrayLocation) -> None:
    commit(array, b"abc")
    commit(array, b"def")
    commit(array, b"ghi", replace=True)
    assert [path for path in array.root.rglob("*") if path.name.endswith(".tmp")] == []


def test_files_a_killed_writer_left_aside_are_harmless(
    small: SmallStore, array: ArrayLocation
) -> None:
    before = load_commits(array)
    record = next(iter(before.values()))
    (array.commits / f".{record.file_name}.0123456789ab.tmp").write_bytes(b"{")
    (array.chunk(0, 0).parent / ".0.0123456789ab.tmp").write_bytes(b"half")
    (array.folder / ".commits.json.0123456789ab.tmp").write_bytes(b"half")
    assert load_commits(array) == before
    got = small.open().targets(view=0, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][0])


# What exists


def test_without_its_record_a_chunk_does_not_exist(small: SmallStore, array: ArrayLocation) -> None:
    (array.commits / load_commits(array)[1, 1].file_name).unlink()
    assert array.chunk(1, 1).exists()
    store = small.open()
    with pytest.raises(MissingTargets, match=r"'r20' for view 1, block 1 \(3 chunks are committed"):
        store.targets(view=1, index=np.arange(7))
    assert store.usable_views(["r20"]) == [0]
    stored = store.mentor("r20")
    assert not is_intact(stored, (1, 1), stored.commits[1, 0].bytes)
    assert is_intact(stored, (1, 0), stored.commits[1, 0].bytes)
    assert not is_intact(stored, (1, 0), 2 * stored.commits[1, 0].bytes)


def test_without_any_record_nothing_exists(small: SmallStore, array: ArrayLocation) -> None:
    write_commit_index(array, load_commits(array))
    shutil.rmtree(array.commits)
    assert load_commits(array) == {}
    with pytest.raises(MissingTargets):
        small.open().usable_views(["r20"])


def test_a_chunk_that_is_gone_or_differs_is_not_intact(
    small: SmallStore, array: ArrayLocation
) -> None:
    array.chunk(0, 0).unlink()
    array.chunk(0, 1).write_bytes(b"short")
    flipped = bytearray(array.chunk(1, 0).read_bytes())
    flipped[5] ^= 1
    array.chunk(1, 0).write_bytes(flipped)
    stored = small.open().mentor("r20")
    size = stored.commits[1, 1].bytes
    intact = {key: is_intact(stored, key, size) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]}
    assert intact == {(0, 0): False, (0, 1): False, (1, 0): False, (1, 1): True, (2, 0): False}


# The gathered index


def without_index(array: ArrayLocation) -> None:
    array.commit_index.unlink()


def stale_index(array: ArrayLocation) -> None:
    commits = load_commits(array)
    write_commit_index(array, {key: commits[key] for key in [(0, 0), (1, 1)]})


def index_of_withdrawn_records(array: ArrayLocation) -> None:
    content = json.loads(array.commit_index.read_bytes())
    record = {**next(iter(content.values())), "view": 77, "crc32c": "00000000"}
    content["000077.000000.00000000.json"] = record
    array.commit_index.write_text(json.dumps(content))


def garbage_index(array: ArrayLocation) -> None:
    array.commit_index.write_bytes(b"\xff\x00garbage")


def truncated_index(array: ArrayLocation) -> None:
    array.commit_index.write_bytes(array.commit_index.read_bytes()[:-20])


def index_of_another_type(array: ArrayLocation) -> None:
    array.commit_index.write_text("[1, 2]")


def empty_index(array: ArrayLocation) -> None:
    array.commit_index.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        without_index,
        stale_index,
        index_of_withdrawn_records,
        garbage_index,
        truncated_index,
        index_of_another_type,
        empty_index,
    ],
)
def test_the_index_is_never_the_truth(
    small: SmallStore, array: ArrayLocation, spoil: object
) -> None:
    expected = load_commits(array)
    write_commit_index(array, expected)
    assert load_commits(array) == expected
    whole = array.commit_index.read_bytes()
    assert callable(spoil)
    spoil(array)
    assert load_commits(array) == expected
    got = small.open().targets(view=1, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1])
    write_commit_index(array, load_commits(array))
    assert array.commit_index.read_bytes() == whole


@pytest.mark.parametrize("value", [5, None, {}, {"view": 0}, []])
def test_a_garbage_entry_of_the_index_is_read_from_its_record_instead(
    small: SmallStore, array: ArrayLocation, value: object
) -> None:
    expected = load_commits(array)
    write_commit_index(array, expected)
    content = json.loads(array.commit_index.read_bytes())
    content[expected[0, 1].file_name] = value
    array.commit_index.write_text(json.dumps(content))
    assert load_commits(array) == expected


def test_the_index_spares_reading_the_records(array: ArrayLocation) -> None:
    expected = load_commits(array)
    write_commit_index(array, expected)
    for record in expected.values():
        (array.commits / record.file_name).write_bytes(b"")  # listed, but not opened
    assert load_commits(array) == expected


# Records that are not records


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"{}", "is not a commit record of this format"),
        (b"[]", "is not a commit record of this format"),
        (b'{"view": 0}', "is not a commit record of this format"),
    ],
)
def test_a_record_that_cannot_be_read_is_an_error_that_names_it(
    small: SmallStore, array: ArrayLocation, content: bytes, reason: str
) -> None:
    path = array.commits / load_commits(array)[0, 1].file_name
    path.write_bytes(content)
    with pytest.raises(StoreError, match=reason) as caught:
        small.open()
    assert str(path) in str(caught.value)
    assert "recomputes that chunk" in str(caught.value)


@pytest.mark.parametrize("key", ["view", "block", "rows", "bytes", "correct"])
def test_counts_of_a_record_are_integers(array: ArrayLocation, key: str) -> None:
    path = array.commits / load_commits(array)[0, 1].file_name
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, key: str(content[key])}))
    with pytest.raises(StoreError, match="counts must be integers"):
        load_commits(array)


def test_a_record_under_anothers_name_is_an_error(array: ArrayLocation) -> None:
    commits = load_commits(array)
    shutil.copy(array.commits / commits[0, 0].file_name, array.commits / commits[1, 0].file_name)
    with pytest.raises(StoreError, match="holds the record of another chunk"):
        load_commits(array)


def test_a_record_of_another_size_is_an_error(small: SmallStore, array: ArrayLocation) -> None:
    commit_chunk(array, (0, 0), b"abcd", rows=4, correct=0, error_sums={}, replace=True)
    with pytest.raises(StoreError, match="states 4 bytes, a chunk has 24"):
        small.open().targets(view=0, index=np.arange(4))
