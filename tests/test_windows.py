"""Views through a window: the rows of the slow way in every epoch, rank and resume point, no more
slots than stated, damage noticed where it is needed, nothing left running."""

import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kdcache
import kdcache.store
from kdcache.datasets import ImageDataset
from kdcache.encode import ENCODERS
from kdcache.epoch_order import epoch_order, passage
from kdcache.errors import DamagedTargets, MissingTargets, UsageError
from kdcache.loader import ReplayLoader
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly, TargetSource
from kdcache.store import TargetStore
from kdcache.stream import TargetStream
from tests.store.small import SmallStore, block_of, make_store

SAMPLES, BLOCKS, ROWS = 97, 13, 8  # 12 whole blocks and one of a single sample
WINDOW = 3 * ROWS


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        return small_store(tmp_path_factory.mktemp("small") / "store", patch, "float16")


@pytest.fixture
def altered(small: SmallStore, tmp_path: Path) -> SmallStore:
    """A copy of it, to be altered."""
    shutil.copytree(small.root, tmp_path / "altered")
    return replace(small, root=tmp_path / "altered")


def small_store(root: Path, patch: pytest.MonkeyPatch, encoder: str, views: int = 2) -> SmallStore:
    """97 samples in 13 blocks, two mentors."""
    block_of(patch, ROWS)
    made = make_store(
        root, num_samples=SAMPLES, num_classes=5, views=views, mentors=("a", "b"), encoder=encoder
    )
    assert (made.open().manifest.num_blocks, made.open().manifest.block) == (BLOCKS, ROWS)
    return made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Mentor, view and block of each chunk that is read into a slot, as they come."""
    found: list[tuple[str, int, int]] = []
    load = kdcache.store.BlockLoader.load

    def noting(own: Any, stored: Any, view: int, block: int, rows: Any) -> None:
        found.append((stored.manifest.name, view, block))
        load(own, stored, view, block, rows)

    monkeypatch.setattr("kdcache.store.BlockLoader.load", noting)
    return found


def order_of(store: TargetStore, window: int, epoch: int = 0) -> np.ndarray:
    """The samples of a store in a windowed order."""
    blocks = TargetStream(store, device="cpu").blocks(store.index_N)
    return store.index_N[epoch_order(0, epoch, store.num_samples, window=window, blocks=blocks)]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_rows_equal_the_stores_own_with_every_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    store = small_store(tmp_path / "store", monkeypatch, encoder).open()
    for window in (1, WINDOW, 11 * ROWS, 12 * ROWS, 10**6):
        stream = TargetStream(store, ["b", "a"], device="cpu", window=window)
        for epoch, view in enumerate((0, 1, 1, 0)):
            order = order_of(store, window, epoch)
            with stream.ordered_view(view, order) as targets:
                for start in range(0, SAMPLES, 10):
                    index = order[start : start + 10]
                    expected = store.targets(view, index, ["b", "a"])
                    assert targets[index].numpy().tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_window_batch_rank_epoch_and_resume_point(
    data: st.DataObject, small: SmallStore
) -> None:
    store = small.open()
    batch = data.draw(st.integers(1, 20), label="batch")
    world_size = data.draw(st.integers(1, 3), label="world size")
    window = data.draw(st.integers(batch * world_size, 120), label="window")
    options: dict[str, Any] = {
        "batch_size": batch,
        "seed": data.draw(st.integers(0, 9), label="seed"),
        "rank": data.draw(st.integers(0, world_size - 1), label="rank"),
        "world_size": world_size,
        "device": "cpu",
        "drop_last": data.draw(st.booleans(), label="drop last"),
        "window": window,
    }
    loader = ReplayLoader(small.dataset, store, **options)
    epoch = data.draw(st.integers(0, 1), label="epoch")
    done = data.draw(st.integers(0, len(loader)), label="batches done")
    loader.load_state_dict({"epoch": epoch, "done": done})
    blocks = TargetStream(store, device="cpu").blocks
    bare = ReplayLoader(small.dataset, LabelsOnly(store.recipe, [0, 1], blocks=blocks), **options)
    bare.set_epoch(epoch)
    rest = list(bare)[done:]
    batches = list(loader)
    assert len(batches) == len(rest)
    for ours, theirs in zip(batches, rest, strict=True):
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.images, theirs.images)
        index = ours.index.numpy()
        assert ours.logits is not None
        np.testing.assert_array_equal(ours.logits.numpy(), store.targets(epoch, index))


@pytest.mark.filterwarnings("ignore:.*uses view 0 again:UserWarning")
@pytest.mark.parametrize("batch", [5, 24])
def test_each_block_is_read_once_an_epoch_and_no_more_slots_are_taken(
    small: SmallStore, loads: list[tuple[str, int, int]], batch: int
) -> None:
    store = small.open()
    loader = ReplayLoader(small.dataset, store, batch, device="cpu", window=WINDOW, drop_last=False)
    source = loader.source
    assert isinstance(source, TargetStream)
    block_bytes = 2 * ROWS * 5 * 2
    assert source.num_bytes == (3 + 1) * block_bytes
    for epoch in range(3):
        loads.clear()
        loader.set_epoch(epoch)
        list(loader)
        every = [(m, epoch % 2, b) for m in ("a", "b") for b in range(BLOCKS)]
        assert sorted(loads) == every
        assert source._window_slots is not None
        assert source._window_slots.num_bytes == source.num_bytes
        assert not any(slot.is_made for slot in source._slots)


def test_a_resumed_epoch_loads_only_what_its_rest_needs(
    small: SmallStore, loads: list[tuple[str, int, int]]
) -> None:
    store = small.open()
    for done in range(13):
        loader = ReplayLoader(small.dataset, store, 8, device="cpu", window=WINDOW, drop_last=False)
        loader.load_state_dict({"epoch": 0, "done": done})
        loads.clear()
        rest = [batch.index.numpy() for batch in loader]
        blocks = {int(index) // ROWS for batch in rest for index in batch}
        assert sorted(loads) == sorted((m, 0, b) for m in ("a", "b") for b in blocks)


def test_a_part_of_a_stores_samples(small: SmallStore) -> None:
    store = small.open()
    part = small.dataset.subset(np.arange(3, SAMPLES, 2))
    loader = ReplayLoader(
        part, TargetStream(store, device="cpu", window=WINDOW), 16, drop_last=False, device="cpu"
    )
    assert loader.window == WINDOW
    found = []
    for batch in loader:
        assert batch.logits is not None
        index = batch.index.numpy()
        np.testing.assert_array_equal(batch.logits.numpy(), store.targets(0, index))
        found += index.tolist()
    assert sorted(found) == part.index_N.tolist()


# Other kinds of targets, and other sources


@pytest.fixture
def kinds_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> TargetStore:
    """100 digits in 10 blocks; r14 and wrn16 in float32, r8 in float16; all kinds of targets."""
    block_of(monkeypatch, 10)
    mentors = [*digits_mentors, load_mentor("wrn16", digits, digits_checkpoint("wrn16"))]
    for mentor, encoder in zip(mentors, ("float32", "float16", "float32"), strict=True):
        made = kdcache.precompute_targets(
            digits,
            [mentor],
            store=tmp_path / "kinds",
            views=2,
            encoder=encoder,
            features=True,
            keep_logsumexp=True,
        )
    return made


@pytest.mark.parametrize("names", [None, ["r8"], ["wrn16", "r8", "r14"]])
def test_features_and_raw_logits(
    kinds_store: TargetStore, digits: ImageDataset, names: list[str] | None
) -> None:
    options: dict[str, Any] = {"mentors": names, "features": True, "raw_logits": True}
    loader = ReplayLoader(digits, kinds_store, 20, device="cpu", window=30, **options)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        for batch in loader:
            index = batch.index.numpy()
            assert batch.logits is not None
            assert batch.features is not None
            raw = kinds_store.targets(epoch, index, names)
            raw = raw + kinds_store.targets(epoch, index, names, kind="logsumexp")[..., None]
            assert batch.logits.numpy().tobytes() == raw.tobytes()
            expected = kinds_store.targets(epoch, index, names, kind="features")
            for ours, theirs in zip(batch.features, expected, strict=True):
                np.testing.assert_array_equal(ours.numpy(), theirs)


def test_every_source_comes_in_the_same_order(
    kinds_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    pool = MentorPool(digits_mentors[:1], device=torch.device("cpu"), run_shape=RunShape())
    stream = TargetStream(kinds_store, ["r14"], device="cpu", window=40)
    whole = TargetStream(kinds_store, ["r14"], device="cpu")
    recipe = kinds_store.recipe
    sources: list[TargetSource] = [
        stream,
        whole,  # the same order from whole views in memory
        OnlineTargets(digits, pool, recipe, [0, 1], blocks=stream.blocks),
        OnlineTargets(digits, pool, recipe, [0, 1]),  # the blocks that a store would have
        LabelsOnly(recipe, [0, 1], blocks=stream.blocks),
        LabelsOnly(recipe, [0, 1]),
    ]
    loaders = [ReplayLoader(digits, s, 20, device="cpu", window=40) for s in sources]
    for epoch in (0, 1):
        for loader in loaders:
            loader.set_epoch(epoch)
        for first, *others in zip(*loaders, strict=True):
            for other in others:
                assert torch.equal(other.index, first.index)
                assert torch.equal(other.images, first.images)
                if other.logits is not None:
                    assert torch.equal(other.logits, first.logits)


# What goes wrong


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_an_error_for_the_rows_that_need_it(altered: SmallStore, damage: str) -> None:
    store = altered.open()
    order = order_of(store, WINDOW)
    stream = TargetStream(store, device="cpu", window=WINDOW)
    broken = int(order[60]) // ROWS
    chunk = store.mentor("b").array.chunk(0, broken)
    content = bytearray(chunk.read_bytes())
    content[3] ^= 1
    if damage == "delete":
        chunk.unlink()
    else:
        chunk.write_bytes(content if damage == "flip" else content[:-1])
    first = int(np.flatnonzero(order // ROWS == broken)[0])
    with stream.ordered_view(0, order) as targets:
        for row in range(first):
            index = order[row : row + 1]
            np.testing.assert_array_equal(targets[index].numpy(), store.targets(0, index))
        for _ in range(2):  # it stays one
            with pytest.raises(
                DamagedTargets, match=rf"'b', view 0, block {broken} .*kdcache precompute"
            ):
                targets[order[first : first + 1]]
    with stream.ordered_view(1, order) as targets:  # the other view is still there
        np.testing.assert_array_equal(targets[order].numpy(), store.targets(1, order))


def test_a_chunk_healed_in_between_is_read(altered: SmallStore) -> None:
    store = altered.open()
    order = order_of(store, WINDOW)
    chunk = store.mentor("a").array.chunk(0, int(order[0]) // ROWS)
    good = chunk.read_bytes()
    chunk.write_bytes(b"x" * len(good))
    stream = TargetStream(store, device="cpu", window=WINDOW)
    with stream.ordered_view(0, order) as targets, pytest.raises(DamagedTargets):
        targets[order[:1]]
    chunk.write_bytes(good)
    with stream.ordered_view(0, order) as targets:
        np.testing.assert_array_equal(targets[order].numpy(), store.targets(0, order))


def test_views_that_are_not_complete_and_unknown_samples(small: SmallStore) -> None:
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    with pytest.raises(MissingTargets, match="usable views: 0, 1"):
        stream.ordered_view(2, order_of(store, WINDOW)).__enter__()
    with pytest.raises(MissingTargets, match="holds no targets"):
        stream.ordered_view(0, np.array([SAMPLES])).__enter__()


def test_what_a_window_cannot_give_is_refused(small: SmallStore) -> None:
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    with pytest.raises(UsageError, match=r"window of 24 samples, not whole views; .*ordered_view"):
        stream.view(0).__enter__()
    shuffled = np.random.default_rng(0).permutation(store.index_N)
    with pytest.raises(UsageError, match=r"need \d+ blocks of 8 samples at once, the window has 4"):
        stream.ordered_view(0, shuffled).__enter__()
    order = order_of(store, WINDOW)
    with stream.ordered_view(0, order) as targets:
        targets[order[:3]]
        with pytest.raises(UsageError, match="rows 3 to 4 of a windowed view were asked for out"):
            targets[order[4:5]]
        assert torch.equal(targets[order[3:4]], torch.from_numpy(store.targets(0, order[3:4])))


def test_impossible_windows_are_refused_with_the_numbers(small: SmallStore) -> None:
    store = small.open()
    for window in (0, -5, 2.5, "8"):
        with pytest.raises(UsageError, match="whole number of samples, at least 1"):
            TargetStream(store, window=window)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="window of 15 samples is smaller than a batch of 16"):
        ReplayLoader(small.dataset, store, 16, window=15)
    with pytest.raises(UsageError, match=r"on each of 3 ranks; give at least 48"):
        ReplayLoader(small.dataset, store, 16, window=47, world_size=3)
    source = TargetStream(store, device="cpu", window=32)
    with pytest.raises(UsageError, match="window of 40 samples, its source has one of 32"):
        ReplayLoader(small.dataset, source, 16, window=40)


BLOCK_BYTES = 2 * ROWS * 5 * 2


@pytest.mark.parametrize(
    ("views", "window", "available", "message"),
    [
        # 26 blocks of 160 bytes are 4.16 kB; 80% of 1,500 bytes are 7 blocks, one of them spare.
        (2, None, 1500, r"two views of 2 mentors \(logits\).*needs 0.00 MB.*--window 48 \(window="),
        (1, None, 1500, r"a view of 2 mentors.*--window 48"),
        (2, 80, 1500, r"a window of 80 samples of 2 mentors.*--window 48"),
        (2, None, 300, r"Not even two blocks of 8 samples fit.*--mentors"),
    ],
)
def test_what_does_not_fit_in_memory_is_refused_and_told_what_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    views: int,
    window: int | None,
    available: int,
    message: str,
) -> None:
    small = small_store(tmp_path / "store", monkeypatch, "float16", views)
    monkeypatch.setattr("kdcache.stream.available_memory", lambda: available)
    with pytest.raises(UsageError, match=message):
        ReplayLoader(small.dataset, small.root, 8, device="cpu", window=window)
    if available > 1000:
        fitting = ReplayLoader(small.dataset, small.root, 8, device="cpu", window=48)
        assert isinstance(fitting.source, TargetStream)
        assert fitting.source.num_bytes == 7 * BLOCK_BYTES <= available
        assert len(list(fitting)) == SAMPLES // 8


# Threads and processes


def slow_loads(patch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Makes reading take its time; the blocks that were begun."""
    begun: list[int] = []
    load = kdcache.store.BlockLoader.load

    def slowly(own: Any, stored: Any, view: int, block: int, rows: Any) -> None:
        begun.append(block)
        time.sleep(seconds)
        load(own, stored, view, block, rows)

    patch.setattr("kdcache.store.BlockLoader.load", slowly)
    return begun


@pytest.mark.parametrize("ending", ["break", "close", "error", "held"])
def test_an_iterator_left_midway_leaves_nothing_running(
    small: SmallStore, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    begun = slow_loads(monkeypatch, 0.02)
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    order = order_of(store, WINDOW)
    opened = stream.ordered_view(0, order)
    targets = opened.__enter__()
    targets[order[:1]]
    if ending == "error":
        assert not opened.__exit__(ValueError, ValueError("a step failed"), None)
    elif ending != "held":
        opened.__exit__(None, None, None)
    if ending != "held":
        count = len(begun)
        time.sleep(0.1)
        assert len(begun) == count
    # The same slots, filled for another pass at once.
    other = order_of(store, WINDOW, epoch=1)
    with stream.ordered_view(1, other) as following:
        rows = following[other]
        np.testing.assert_array_equal(rows.numpy(), store.targets(1, other))
        with pytest.raises(UsageError, match="reads one view at a time"):
            targets[order[1:2]]


def test_a_loader_left_in_the_middle_begins_anew(small: SmallStore) -> None:
    store = small.open()
    loader = ReplayLoader(small.dataset, store, 8, device="cpu", window=WINDOW)
    held = [iter(loader), iter(loader)]
    for iterator in held:
        next(iterator)
    for _ in loader:
        break
    loader.set_epoch(0)
    for batch in loader:
        assert batch.logits is not None
        expected = store.targets(0, batch.index.numpy())
        np.testing.assert_array_equal(batch.logits.numpy(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_midway_reads_on_and_anew(
    small: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_loads(monkeypatch, 0.01)  # the parent's thread is in the middle of something
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    order = order_of(store, WINDOW)
    expected = store.targets(0, order)
    with stream.ordered_view(0, order) as targets:
        targets[order[:20]]
        child = os.fork()
        if child == 0:
            try:
                same = np.array_equal(targets[order[20:]].numpy(), expected[20:])
                with stream.ordered_view(0, order) as anew:
                    same = same and np.array_equal(anew[order].numpy(), expected)
                os._exit(0 if same else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(targets[order[20:]].numpy(), expected[20:])


def test_a_used_stream_can_be_sent_to_another_process(small: SmallStore) -> None:
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    order = order_of(store, WINDOW)
    with stream.ordered_view(0, order) as targets:
        targets[order[:9]]
        copied = pickle.loads(pickle.dumps(stream))
    with copied.ordered_view(1, order) as targets:
        np.testing.assert_array_equal(targets[order].numpy(), store.targets(1, order))


def test_rows_wait_for_their_own_blocks_only_and_one_more_is_read_ahead(
    small: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    go_on = threading.Semaphore(0)
    load = kdcache.store.BlockLoader.load

    def held_back(own: Any, stored: Any, view: int, block: int, rows: Any) -> None:
        if stored.manifest.name == "a":  # the first of a block's chunks
            assert go_on.acquire(timeout=60)
            begun.append(block)
        load(own, stored, view, block, rows)

    monkeypatch.setattr("kdcache.store.BlockLoader.load", held_back)
    store = small.open()
    stream = TargetStream(store, device="cpu", window=WINDOW)
    order = order_of(store, WINDOW)
    found = passage(order // ROWS)
    first = [*found.first.tolist(), SAMPLES]
    with stream.ordered_view(0, order) as targets:
        for count, (start, stop) in enumerate(pairwise(first), start=1):
            go_on.release()  # one more block, and no other, can come
            expected = store.targets(0, order[start:stop])
            np.testing.assert_array_equal(targets[order[start:stop]].numpy(), expected)
            assert begun == found.arriving[:count].tolist()

    begun.clear()
    for _ in range(2 * BLOCKS):
        go_on.release()
    with stream.ordered_view(1, order) as targets:
        targets[order[:1]]
        deadline = time.monotonic() + 60
        while len(begun) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert begun == found.arriving[:4].tolist()  # the window's three and the spare one
