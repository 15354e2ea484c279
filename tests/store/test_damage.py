"""Damage: every flipped bit, every truncation, every lost file is an error that says where."""

from pathlib import Path

import numpy as np
import pytest

from kdcache.encode import ENCODERS
from kdcache.errors import DamagedTargets
from tests.store.small import SmallStore, block_of, make_store


@pytest.fixture(params=ENCODERS)
def small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> SmallStore:
    """Two views of 5 samples in two blocks (3 and 2) of two mentors, two classes."""
    block_of(monkeypatch, 3)
    return make_store(
        tmp_path / "store",
        num_samples=5,
        num_classes=2,
        mentors=["r8", "r20"],
        encoder=request.param,
    )


@pytest.fixture
def chunk(small: SmallStore) -> Path:
    """Mentor r20, view 1, block 0."""
    return small.array("r20").chunk(1, 0)


def require_damage(small: SmallStore, chunk: Path, reason: str) -> None:
    """The chunk is refused, by name; everything else still reads."""
    store = small.open()
    with pytest.raises(DamagedTargets, match=reason) as caught:
        store.targets(view=1, index=np.arange(5))
    message = str(caught.value)
    assert "mentor 'r20', view 1, block 0 are damaged" in message
    assert str(chunk) in message
    assert f"kdcache precompute --store {small.root} --mentors r20" in message
    r8 = store.targets(view=1, index=np.arange(5), mentors=["r8"])[:, 0]
    assert np.array_equal(r8, small.decoded["r8"][1])
    other_block = store.targets(view=1, index=np.array([3, 4]), mentors=["r20"])[:, 0]
    assert np.array_equal(other_block, small.decoded["r20"][1][3:])
    other_view = store.targets(view=0, index=np.arange(5), mentors=["r20"])[:, 0]
    assert np.array_equal(other_view, small.decoded["r20"][0])


def test_every_flipped_bit_is_noticed(small: SmallStore, chunk: Path) -> None:
    whole = chunk.read_bytes()
    store = small.open()
    encoder = store.mentor("r20").encoder
    if encoder.compression is None:
        assert len(whole) == 3 * 2 * np.dtype(encoder.dtype).itemsize + 4
    for position in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            chunk.write_bytes(content)
            with pytest.raises(DamagedTargets, match="CRC32C differs from the committed one"):
                store.targets(view=1, index=np.array([0]))
    require_damage(small, chunk, "CRC32C differs")
    chunk.write_bytes(whole)
    assert np.array_equal(
        store.targets(view=1, index=np.arange(5), mentors=["r20"])[:, 0], small.decoded["r20"][1]
    )


def test_every_truncation_and_extension_is_noticed(small: SmallStore, chunk: Path) -> None:
    whole = chunk.read_bytes()
    store = small.open()
    for size in [*range(len(whole)), len(whole) + 1, 2 * len(whole)]:
        chunk.write_bytes((whole * 2)[:size])
        with pytest.raises(DamagedTargets, match=f"{size} bytes instead of {len(whole)}"):
            store.targets(view=1, index=np.array([0]))
    require_damage(small, chunk, "bytes instead of")


def test_a_lost_file_is_noticed(small: SmallStore, chunk: Path) -> None:
    chunk.unlink()
    require_damage(small, chunk, "the file is gone")
    chunk.parent.rmdir()
    require_damage(small, chunk, "the file is gone")


def test_another_whole_chunk_in_its_place_is_noticed(small: SmallStore, chunk: Path) -> None:
    # Its own checksum is right, but it is not what was committed here.
    chunk.write_bytes(small.array("r20").chunk(0, 0).read_bytes())
    require_damage(small, chunk, "CRC32C differs from the committed one|bytes instead of")


def test_bytes_swapped_within_a_chunk_are_noticed(small: SmallStore, chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    swapped = next(n for n in range(len(content) - 4) if content[n] != content[n + 1])
    content[swapped], content[swapped + 1] = content[swapped + 1], content[swapped]
    chunk.write_bytes(content)
    require_damage(small, chunk, "CRC32C differs")


def test_zeros_of_the_right_size_are_noticed(small: SmallStore, chunk: Path) -> None:
    chunk.write_bytes(bytes(chunk.stat().st_size))  # what a power cut leaves
    require_damage(small, chunk, "CRC32C differs")
