"""Commits: records decide what exists, whole chunks only, the first writer wins."""

import json
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.encode import ENCODERS, find_encoder
from kdcache.errors import MissingTargets, StoreError
from kdcache.store import (
    ArrayLocation,
    ChunkReader,
    CommitRecord,
    chunk_payload,
    commit_chunk,
    read_block,
)
from kdcache.store.chunks import crc32c
from kdcache.store.commits import Commits, read_commits
from tests.store.small import (
    SmallStore,
    block_of,
    commit_rows,
    files_of,
    make_store,
    random_targets,
    resealed,
)

IDENTITY = "5" * 64


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
    array: ArrayLocation, payload: bytes, *, view: int = 5, identity: str = IDENTITY
) -> CommitRecord:
    return commit_chunk(
        array, (view, 0), payload, rows=2, correct=1, error_sums={"kl_t1": 0.5},
        identity=identity, encoder=find_encoder("float16"),
    )  # fmt: skip


def committed(array: ArrayLocation) -> CommitRecord:
    """The one record of view 5."""
    return read_commits(array, IDENTITY).records[5, 0]


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
        identity=IDENTITY,
        correct=1,
        error_sums={"kl_t1": 0.5},
    )


def test_a_record_is_named_by_view_block_and_checksum(array: ArrayLocation) -> None:
    record = commit(array, b"abcd")
    path = array.commits / f"000005.000000.{plain_crc32c(b'abcd'):08x}.json"
    assert record.file_name == path.name
    content = path.read_bytes()
    assert content == resealed(content)
    document = json.loads(content)
    assert len(document.pop("seal")) == 64
    assert document == {
        "view": 5,
        "block": 0,
        "rows": 2,
        "bytes": 4,
        "crc32c": record.crc32c,
        "sha256": record.sha256,
        "identity": IDENTITY,
        "correct": 1,
        "error_sums": {"kl_t1": 0.5},
    }
    assert committed(array) == record


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_last_block_is_padded_to_a_whole_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    block_of(monkeypatch, 4)
    store = make_store(tmp_path / "padded", num_samples=7, encoder=encoder).open()
    stored = store.mentor("r20")
    assert [stored.commits[0, block].rows for block in (0, 1)] == [4, 3]
    chunk = np.empty((4, 3), dtype=stored.encoder.dtype)
    reader = ChunkReader(stored.encoder, chunk.nbytes)
    read_block(store, stored, 0, 1, chunk.data.cast("B"), reader)
    fill = np.full(3, stored.encoder.fill, dtype=chunk.dtype)
    assert np.array_equal(chunk[3], fill, equal_nan=fill.dtype.kind == "f")
    assert not (chunk[:3] == fill).any()
    if stored.encoder.compression is None:
        assert {stored.commits[key].bytes for key in stored.commits} == {chunk.nbytes}


def test_an_intact_chunk_stays_and_the_second_committer_gets_its_record(
    array: ArrayLocation,
) -> None:
    first = commit(array, b"first")
    before = files_of(array.folder)
    assert commit(array, b"other") == first
    assert files_of(array.folder) == before
    assert committed(array) == first


def test_of_many_at_once_one_is_first_and_the_chunk_is_its(array: ArrayLocation) -> None:
    payloads = [bytes([number]) * 500 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        records = set(map(repr, pool.map(lambda payload: commit(array, payload), payloads)))
    assert len(records) == 1
    winner = committed(array)
    assert records == {repr(winner)}
    content = array.chunk(5, 0).read_bytes()
    assert sha256(content[:-4]).hexdigest() == winner.sha256
    assert len(list(array.commits.glob("000005.*"))) == 1


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "the chunk is gone": lambda chunk, record: chunk.unlink(),
    "the chunk is cut": lambda chunk, record: chunk.write_bytes(chunk.read_bytes()[:-1]),
    "the chunk is another": lambda chunk, record: chunk.write_bytes(b"other" + b"\0" * 4),
    "the record is gone": lambda chunk, record: record.unlink(),
    "the record is cut": lambda chunk, record: record.write_bytes(record.read_bytes()[:-1]),
    "the record is empty": lambda chunk, record: record.write_bytes(b""),
    "there are two records": lambda chunk, record: shutil.copy(
        record, record.with_name("000005.000000.00000000.json")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("payload", [b"first", b"other", b"longer"])
def test_a_damaged_chunk_is_replaced(array: ArrayLocation, damage: str, payload: bytes) -> None:
    old = commit(array, b"first")
    DAMAGES[damage](array.chunk(5, 0), array.commits / old.file_name)
    new = commit(array, payload)
    assert new.sha256 == sha256(payload).hexdigest()
    assert [path.name for path in array.commits.glob("000005.*")] == [new.file_name]
    assert array.chunk(5, 0).read_bytes()[:-4] == payload
    assert committed(array) == new
    assert commit(array, b"third") == new or len(payload) != 5


def test_a_chunk_of_another_identity_is_replaced(array: ArrayLocation) -> None:
    commit(array, b"first", identity="6" * 64)
    new = commit(array, b"first")
    assert [path.name for path in array.commits.glob("000005.*")] == [new.file_name]
    assert committed(array) == new


def test_a_chunk_of_another_size_is_replaced(array: ArrayLocation) -> None:
    """No array has chunks of two sizes: that record could never be read."""
    commit(array, b"longer")
    new = commit(array, b"short")
    assert committed(array) == new


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_healed_chunk_reads_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    block_of(monkeypatch, 4)
    small = make_store(tmp_path / "healed", num_samples=7, encoder=encoder)
    small.array("r20").chunk(1, 0).write_bytes(b"rubbish")
    commit_rows(small.open(), "r20", (1, 0), random_targets(2, 7, 3)[1, :4])
    got = small.open().targets(view=1, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_chunk_healed_by_somebody_else_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """A store that was open all the while finds the new record, of new bytes and a new size."""
    block_of(monkeypatch, 400)
    small = make_store(tmp_path / "healed", num_samples=500, encoder=encoder)
    store = small.open()
    chunk = small.array("r20").chunk(1, 0)
    chunk.write_bytes(b"rubbish")
    targets = np.full((250, 3), -1.0986, dtype=np.float32)
    commit_rows(small.open(), "r20", (1, 0), targets)
    stored = store.mentor("r20")
    expected = stored.encoder.decode(torch.from_numpy(stored.encoder.encode(targets)))
    got = store.targets(view=1, index=np.arange(250))[:, 0]
    assert np.array_equal(got, expected.numpy())
    encoded = chunk_payload(stored.encoder.encode(targets), 250, stored.encoder)
    assert bytes(encoded) == chunk.read_bytes()[:-4]
    chunk.write_bytes(b"rubbish again")
    with pytest.raises(StoreError, match="view 1, block 0 are damaged: 13 bytes instead of"):
        store.targets(view=1, index=np.arange(5))


def test_nothing_is_left_aside(array: ArrayLocation) -> None:
    commit(array, b"abc")
    commit(array, b"def")
    array.chunk(5, 0).unlink()
    commit(array, b"ghi")
    assert [path for path in array.root.rglob("*") if path.name.endswith(".tmp")] == []


def test_files_a_killed_writer_left_aside_are_harmless(
    small: SmallStore, array: ArrayLocation
) -> None:
    stored = small.open().mentor("r20")
    record = stored.commits[0, 0]
    (array.commits / f".{record.file_name}.0123456789ab.tmp").write_bytes(b"{")
    (array.chunk(0, 0).parent / ".0.0123456789ab.tmp").write_bytes(b"half")
    (array.folder / ".commits.json.0123456789ab.tmp").write_bytes(b"half")
    assert read_commits(array, stored.identity) == Commits(records=stored.commits)
    got = small.open().targets(view=0, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][0])


def test_a_store_that_vanished_is_not_made_again(array: ArrayLocation, tmp_path: Path) -> None:
    array.root.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="vanished while it was written to"):
        commit(array, b"first")
    assert not array.root.exists()


# What exists


def test_without_its_record_a_chunk_does_not_exist(small: SmallStore, array: ArrayLocation) -> None:
    (array.commits / small.open().mentor("r20").commits[1, 1].file_name).unlink()
    assert array.chunk(1, 1).exists()
    store = small.open()
    with pytest.raises(MissingTargets, match=r"'r20' for view 1, block 1 \(3 chunks are committed"):
        store.targets(view=1, index=np.arange(7))
    assert store.usable_views(["r20"]) == [0]
    assert sorted(store.mentor("r20").commits) == [(0, 0), (0, 1), (1, 0)]


def test_without_any_record_nothing_exists(small: SmallStore, array: ArrayLocation) -> None:
    shutil.rmtree(array.commits)
    assert read_commits(array, IDENTITY) == Commits(records={})
    with pytest.raises(MissingTargets):
        small.open().usable_views(["r20"])


def test_a_chunk_that_is_gone_or_differs_has_damage(
    small: SmallStore, array: ArrayLocation
) -> None:
    array.chunk(0, 0).unlink()
    array.chunk(0, 1).write_bytes(b"short")
    flipped = bytearray(array.chunk(1, 0).read_bytes())
    flipped[5] ^= 1
    array.chunk(1, 0).write_bytes(flipped)
    store = small.open()
    stored = store.mentor("r20")
    reader = ChunkReader(stored.encoder, store.chunk_bytes("r20"))
    damage = {key: stored.damage(key, reader) for key in sorted(stored.commits)}
    assert damage == {
        (0, 0): "the file is gone",
        (0, 1): "5 bytes instead of 28",
        (1, 0): "its CRC32C differs from the committed one",
        (1, 1): None,
    }
