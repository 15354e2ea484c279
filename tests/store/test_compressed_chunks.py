"""Compressed chunks: one Zstandard frame of exactly a chunk, or refused before memory is taken."""

import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numcodecs import zstd
from numpy.typing import NDArray

from kdcache.encode import find_encoder
from kdcache.errors import DamagedTargets
from kdcache.store import ChunkReader, CommitRecord, chunk_payload, commit_chunk
from tests.store.small import SmallStore, alter, block_of, commit_rows, make_store, random_targets

SQRT8_ZSTD = find_encoder("sqrt8-zstd")
ROWS, CLASSES = 256, 100
RAW = ROWS * CLASSES
MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallStore:
    """Two views of 512 samples in two blocks, 100 classes."""
    block_of(monkeypatch, ROWS)
    return make_store(
        tmp_path / "store", num_samples=2 * ROWS, num_classes=CLASSES, encoder="sqrt8-zstd"
    )


def forge_chunk(small: SmallStore, payload: bytes, *, rows: int = ROWS) -> CommitRecord:
    """Puts a payload in place of view 1, block 0, with a right CRC32C and a right record."""
    stored = small.open().mentor("r20")
    for path in stored.array.commits.glob("000001.000000.*"):
        path.unlink()
    return commit_chunk(
        stored.array, (1, 0), payload, rows=rows, correct=0, error_sums={},
        identity=stored.identity, encoder=find_encoder("float16"),  # which does not look inside
    )  # fmt: skip


def raw_rows() -> NDArray[np.generic]:
    return SQRT8_ZSTD.encode(random_targets(1, ROWS, CLASSES, seed=5)[0])


def frame(raw: bytes) -> bytes:
    compressed: bytes = zstd.compress(raw, 3)
    return compressed


SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"abcd"
WHOLE = frame(raw_rows().tobytes())
HALF = raw_rows().tobytes()[: RAW // 2]
FORGERIES: dict[str, bytes] = {
    "one row less": frame(raw_rows().tobytes()[CLASSES:]),
    "one byte more": frame(raw_rows().tobytes() + b"\0"),
    "two frames": frame(HALF) + frame(HALF),
    "two whole frames": WHOLE + WHOLE,
    "an empty frame after it": WHOLE + frame(b""),
    "an empty frame before it": frame(b"") + WHOLE,
    "a skippable frame after it": WHOLE + SKIPPABLE,
    "a skippable frame before it": SKIPPABLE + WHOLE,
    "a byte after it": WHOLE + b"\0",
    "cut short": WHOLE[:-1],
    "no frame": raw_rows().tobytes()[: len(WHOLE)],
    "garbage in a frame": WHOLE[:9] + bytes(b ^ 0x55 for b in WHOLE[9:]),
    "a frame that claims another size": MAGIC + b"\xe0" + struct.pack("<Q", 2**62) + WHOLE[8:],
    "a frame without a size": MAGIC + b"\x00\x58" + WHOLE[8:],
    "only the magic": MAGIC + bytes(200),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_not_one_whole_frame_is_damaged(small: SmallStore, name: str) -> None:
    forge_chunk(small, FORGERIES[name])
    store = small.open()
    with pytest.raises(DamagedTargets, match="mentor 'r20', view 1, block 0 are damaged"):
        store.targets(view=1, index=np.arange(5))
    # The rest reads, and whoever looks for damage finds it, so that it is healed.
    got = store.targets(view=1, index=np.arange(ROWS, 2 * ROWS))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1, ROWS:])
    stored = store.mentor("r20")
    if (1, 0) in stored.commits:
        assert stored.damage((1, 0), ChunkReader(SQRT8_ZSTD, RAW)) is not None
    targets = random_targets(2, 2 * ROWS, CLASSES)[1, :ROWS]
    commit_rows(store, "r20", (1, 0), targets)
    got = small.open().targets(view=1, index=np.arange(ROWS))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1, :ROWS])


def test_frames_of_other_writers_are_read(small: SmallStore) -> None:
    """Any level, stored blocks, a checksum: what a frame looks like inside is its writer's."""
    raw = raw_rows().tobytes()
    expected = SQRT8_ZSTD.decode(torch.from_numpy(raw_rows())).numpy()
    stored_block = struct.pack("<I", len(raw) << 3 | 1)[:3] + raw
    for payload in (
        zstd.compress(raw, -5),
        zstd.compress(raw, 19),
        zstd.Zstd(level=1, checksum=True).encode(raw),
        MAGIC + b"\xa0" + struct.pack("<I", len(raw)) + stored_block,
    ):
        forge_chunk(small, payload)
        got = small.open().targets(view=1, index=np.arange(ROWS))[:, 0]
        assert np.array_equal(got, expected)


@pytest.fixture
def large(tmp_path: Path) -> SmallStore:
    """Two views of 8,192 samples in one block, 100 classes: chunks of 819,200 bytes."""
    return make_store(
        tmp_path / "large", num_samples=8192, num_classes=CLASSES, encoder="sqrt8-zstd"
    )


def test_more_than_a_thousandfold_is_no_chunk(large: SmallStore) -> None:
    record = forge_chunk(large, frame(bytes(8192 * CLASSES)), rows=8192)
    assert record.bytes < 200
    reason = f"its record states {record.bytes} bytes, a chunk has 819200"
    with pytest.raises(DamagedTargets, match=reason):
        large.open().targets(view=1, index=np.arange(5))


def test_a_mentor_that_always_says_the_same_is_refused() -> None:
    rows = np.full((8192, CLASSES), 147, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"819200 bytes of targets became \d+: the mentor says"):
        chunk_payload(rows, 8192, SQRT8_ZSTD)
    assert len(chunk_payload(rows, 8192, find_encoder("sqrt8"))) == 819_200
    rows[:, 0] = np.random.default_rng(0).integers(0, 254, 8192)  # one class that differs will do
    assert len(chunk_payload(rows, 8192, SQRT8_ZSTD)) < 20_000


OPENS = """
import resource, sys
import numpy as np
import torch
import kdcache
import torch
from numcodecs import zstd
from numpy.typing import NDArray

zstd.decompress(zstd.compress(bytes(100), 3))
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, now + 2**26))
for path in sys.argv[1:]:
    try:
        kdcache.open_store(path).targets(view=1, index=np.arange(5))
        print("read")
    except kdcache.errors.DamagedTargets as error:
        print("damaged")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_bombs_take_no_memory(large: SmallStore, tmp_path: Path) -> None:
    """Sizes that a frame, a record or a file claims are checked before 64 MiB are taken."""
    names = ("sound", "frame", "record", "file")
    bombs = {name: replace(large, root=tmp_path / name) for name in names}
    for bomb in bombs.values():
        shutil.copytree(large.root, bomb.root)
    claims = MAGIC + b"\xe0" + struct.pack("<Q", 2**33)
    forge_chunk(bombs["frame"], claims + frame(bytes(2**20)) * 30, rows=8192)
    record = forge_chunk(bombs["record"], WHOLE * 40, rows=8192)
    array = bombs["record"].array("r20")
    alter(array.commits / record.file_name, lambda document: document.update(bytes=2**33))
    with open(array.chunk(1, 0), "r+b") as file:
        file.truncate(2**33 + 4)  # takes no space on disk
    with open(bombs["file"].array("r20").chunk(1, 0), "r+b") as file:
        file.truncate(2**33)
    command = [sys.executable, "-c", OPENS, *(str(bomb.root) for bomb in bombs.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["read", "damaged", "damaged", "damaged"], done.stderr
