"""A chunk's checksum is computed once while its file stays the same, and again when it does not."""

import os
import time
from pathlib import Path

import crc32c
import numpy as np
import pytest
import torch

from kdcache.errors import DamagedTargets
from kdcache.resident import ResidentView
from kdcache.store import TargetStore, chunk_reader, verify_store
from tests.store.small import SmallStore, block_of, make_store

SETTLED = 0.05  # seconds, instead of two
CHUNKS = 2 * 2  # of a view: mentors x blocks
CHUNK_BYTES = 4 * 3 * 2  # samples x classes, float16
CPU = torch.device("cpu")
REAL_CRC = crc32c.crc32c


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of two mentors in two blocks."""
    block_of(monkeypatch, 4)
    monkeypatch.setattr("kdcache.store.checked_files.SETTLED_NS", int(SETTLED * 1e9))
    return make_store(tmp_path / "store", num_samples=8, mentors=("a", "b"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each chunk of which a CRC32C was computed, as they come."""
    sizes: list[int] = []

    def counting(data: memoryview) -> int:
        if len(data) == CHUNK_BYTES:  # the lists of samples are larger
            sizes.append(len(data))
        return REAL_CRC(data)

    monkeypatch.setattr(crc32c, "crc32c", counting)
    return sizes


def loaded(store: TargetStore, view: int = 0) -> ResidentView:
    return ResidentView(store, store.mentors, CPU).load(view)


def settle() -> None:
    time.sleep(2 * SETTLED)


def test_once_for_each_unchanged_file(small: SmallStore, computed: list[int]) -> None:
    store = small.open()
    settle()
    for times, view in ((1, 0), (1, 0), (2, 1), (2, 0), (2, 1)):
        rows = loaded(store, view)[store.index_N].numpy()
        np.testing.assert_array_equal(rows[:, 0], small.decoded["a"][view])
        assert len(computed) == times * CHUNKS


def test_a_file_written_just_now_is_checked_again(small: SmallStore, computed: list[int]) -> None:
    """Within the clock's granularity another change might leave its times as they are."""
    store = small.open()
    chunk = store.mentor("a").array.chunk(0, 1)
    settle()
    os.utime(chunk)
    for times in (1, 2):
        loaded(store)
        assert len(computed) == CHUNKS - 1 + times


@pytest.mark.parametrize("change", ["in place", "times put back", "replaced", "replaced, its size"])
def test_a_changed_file_is_noticed(small: SmallStore, computed: list[int], change: str) -> None:
    store = small.open()
    settle()
    loaded(store)
    chunk = store.mentor("b").array.chunk(0, 1)
    before, content = chunk.stat(), bytearray(chunk.read_bytes())
    content[5] ^= 1
    if change.startswith("replaced"):
        aside = chunk.with_name("aside")
        aside.write_bytes(content if change.endswith("size") else content[:-1])
        os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
        aside.replace(chunk)
    else:
        with open(chunk, "r+b") as file:
            file.write(content)
        if change == "times put back":
            os.utime(chunk, ns=(before.st_atime_ns, before.st_mtime_ns))
    settle()
    with pytest.raises(DamagedTargets, match=r"'b', view 0, block 1"):
        loaded(store)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    small: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small.open()
    settle()
    chunk = store.mentor("a").array.chunk(0, 0)
    good = chunk.read_bytes()

    def changing(data: memoryview) -> int:
        if bytes(data) == good[:-4]:  # it is read, and not yet found to be right
            with open(chunk, "r+b") as file:
                file.write(bytes([good[0] ^ 1]))
        return REAL_CRC(data)

    with monkeypatch.context() as patch:
        patch.setattr(crc32c, "crc32c", changing)
        loaded(store)
    settle()
    with pytest.raises(DamagedTargets, match=r"'a', view 0, block 0"):
        loaded(store)


def test_a_healed_commit_is_not_taken_for_the_old_one(
    small: SmallStore, computed: list[int]
) -> None:
    """The same file under another committed checksum is checked against that one."""
    store = small.open()
    settle()
    loaded(store)
    computed.clear()
    stored, reader = store.mentor("a"), chunk_reader(store, store.mentor("a"))
    record = stored.commits[0, 0]
    buffer = memoryview(bytearray(record.bytes))
    reader.read_into(buffer, stored.array.chunk(0, 0), record.bytes, record.checksum)
    assert len(computed) == 1


def test_verifying_and_looking_check_every_byte_every_time(
    small: SmallStore, computed: list[int]
) -> None:
    store = small.open()
    settle()
    for view in (0, 1):
        loaded(store, view)
    computed.clear()
    for times in (1, 2):
        assert verify_store(small.root).ok
        assert len(computed) == times * 2 * CHUNKS
    computed.clear()
    for times in (1, 2):
        store.targets(0, store.index_N)
        assert len(computed) == times * CHUNKS
