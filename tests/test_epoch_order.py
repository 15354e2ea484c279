"""The order of an epoch: a permutation whatever the window, never more blocks than the window has,
and a shuffle as good as its page says."""

from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache import philox
from kdcache.epoch_order import Blocks, epoch_order, passage, require_window
from kdcache.errors import UsageError


def equal_blocks(num_samples: int, rows: int) -> Blocks:
    return Blocks(rows=rows, block_N=np.arange(num_samples) // rows)


def live_counts(block_K: np.ndarray) -> list[int]:
    """The slow way: blocks that were needed by now, and will be needed at this row or later."""
    rows = block_K.tolist()
    return [len({*rows[: at + 1]} & {*rows[at:]}) for at in range(len(rows))]


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize("count", [1, 100, 5000])
def test_without_a_window_it_is_the_permutation_it_always_was(epoch: int, count: int) -> None:
    expected = philox.permutation(3, philox.Purpose.EPOCH_ORDER, epoch, count)
    np.testing.assert_array_equal(epoch_order(3, epoch, count), expected)
    blocks = equal_blocks(count, 7)
    np.testing.assert_array_equal(epoch_order(3, epoch, count, blocks=blocks), expected)
    for window in (count, 10 * count):  # everything fits
        whole = epoch_order(3, epoch, count, window=window, blocks=blocks)
        np.testing.assert_array_equal(whole, expected)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_it_is_a_permutation_and_needs_no_more_blocks_than_the_window(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 9), label="rows a block")
    count = data.draw(st.integers(1, 150), label="samples")
    window = data.draw(st.integers(1, 160), label="window")
    step = data.draw(st.integers(1, 4), label="world size")
    first = data.draw(st.integers(0, count), label="rows done")
    order = epoch_order(
        data.draw(st.integers(0, 2**64 - 1), label="seed"),
        data.draw(st.integers(0, 2**32 - 1), label="epoch"),
        count,
        window=window,
        blocks=equal_blocks(count, rows),
    )
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    width = min(ceil(window / rows), ceil(count / rows))
    for part in (order, order[step - 1 :: step][first:]):  # a rank's, resumed
        counts = live_counts(part // rows)
        assert max(counts, default=0) == passage(part // rows).most_live <= width


@settings(deadline=None, max_examples=50)
@given(
    block_N=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    window=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_blocks_may_be_of_any_sizes(block_N: list[int], window: int, seed: int) -> None:
    """A part of a store has parts of its blocks, some not at all."""
    blocks = Blocks(rows=5, block_N=np.array(block_N))
    order = epoch_order(seed, 0, len(block_N), window=window, blocks=blocks)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(block_N)))
    assert max(live_counts(blocks.block_N[order])) <= ceil(window / 5)


@settings(deadline=None, max_examples=100)
@given(block_K=st.lists(st.integers(0, 8), max_size=50))
def test_a_passage_is_what_a_loop_finds(block_K: list[int]) -> None:
    found = passage(np.array(block_K, dtype=np.int64))
    first = {block: block_K.index(block) for block in reversed(block_K)}
    last = {block: at for at, block in enumerate(block_K)}
    assert found.arriving.tolist() == sorted(first, key=first.__getitem__)
    assert found.first.tolist() == sorted(first.values())
    assert found.leaving.tolist() == sorted(last, key=last.__getitem__)
    assert found.last.tolist() == sorted(last.values())
    assert found.most_live == max(live_counts(np.array(block_K)), default=0)


def test_one_block_after_another_with_a_window_of_one() -> None:
    order = epoch_order(5, 2, 60, window=4, blocks=equal_blocks(60, 4))
    runs = (order // 4).reshape(15, 4)
    assert (runs == runs[:, :1]).all()
    blocks = philox.permutation(5, philox.Purpose.BLOCK_ORDER, 2, 15)
    np.testing.assert_array_equal(runs[:, 0], blocks)


def test_another_order_each_epoch_and_seed_and_the_same_one_again() -> None:
    blocks = equal_blocks(1000, 10)
    orders = [epoch_order(s, e, 1000, window=100, blocks=blocks) for s in (0, 1) for e in (0, 1)]
    again = epoch_order(0, 0, 1000, window=100, blocks=blocks)
    np.testing.assert_array_equal(orders[0], again)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    # Pinned: these numbers decide runs, on every machine and version.
    assert orders[0][:8].tolist() == [27, 900, 905, 793, 746, 651, 578, 22]


# How good a shuffle it is: 128 blocks of 200 samples, a window of 16 of them

ROWS, COUNT, WIDTH, BATCH = 200, 128, 16, 64
SAMPLES = ROWS * COUNT


def windowed_orders(epochs: int) -> np.ndarray:
    """(epochs, N)."""
    blocks = equal_blocks(SAMPLES, ROWS)
    return np.stack(
        [epoch_order(11, e, SAMPLES, window=WIDTH * ROWS, blocks=blocks) for e in range(epochs)]
    )


def test_a_batch_draws_from_all_blocks_of_the_window_from_first_to_last() -> None:
    orders = windowed_orders(20)
    batches = (orders // ROWS).reshape(20, -1, BATCH)
    distinct = np.array([[len(np.unique(batch)) for batch in epoch] for epoch in batches])
    # Uniform chances over W blocks; at the ends they differ by up to a factor of two.
    expected = WIDTH * (1 - (1 - 1 / WIDTH) ** BATCH)
    assert abs(distinct.mean() - expected) < 0.15
    assert abs(distinct[:, 0].mean() - expected) < 1
    assert abs(distinct[:, -1].mean() - expected) < 1
    assert distinct.max() <= 2 * WIDTH


def test_a_sample_moves_within_its_blocks_stretch_and_anywhere_over_epochs() -> None:
    orders = windowed_orders(60)
    places = np.argsort(orders, axis=1)  # epoch, sample -> place
    within = places.reshape(60, COUNT, ROWS).std(axis=2)
    expected = WIDTH * ROWS / np.sqrt(12)
    assert abs(within.mean() / expected - 1) < 0.1
    # Over epochs a sample's place is uniform in 0 .. N - 1: mean and spread of 60 draws.
    assert abs(places.mean() - (SAMPLES - 1) / 2) < 1
    assert abs(places.std(axis=0).mean() / (SAMPLES / np.sqrt(12)) - 1) < 0.03
    # Neighbours in the dataset are apart in the epoch like any two samples of the window.
    apart = np.abs(np.diff(places.reshape(60, COUNT, ROWS), axis=2)).mean()
    assert abs(apart / (WIDTH * ROWS / 3) - 1) < 0.15


def classes_in_batches(order: np.ndarray, labels_N: np.ndarray) -> float:
    return float(np.mean([len(np.unique(labels_N[b])) for b in order.reshape(-1, BATCH)]))


def test_class_balance_on_sorted_and_on_shuffled_data() -> None:
    classes = 64
    sorted_N = np.arange(SAMPLES) * classes // SAMPLES  # two blocks a class
    shuffled_N = np.random.default_rng(0).permutation(sorted_N)
    order = windowed_orders(1)[0]
    everywhere = epoch_order(11, 0, SAMPLES)
    all_classes = classes * (1 - (1 - 1 / classes) ** BATCH)  # 40.6
    assert abs(classes_in_batches(everywhere, sorted_N) - all_classes) < 0.5
    # Data that is shuffled once loses nothing.
    assert abs(classes_in_batches(order, shuffled_N) - all_classes) < 0.5
    # Sorted data: the classes of 16 random blocks, 14.2 of 64 expected, and what a batch finds.
    of_window = classes * (1 - (1 - WIDTH / COUNT) ** 2)
    assert classes_in_batches(order, sorted_N) == pytest.approx(of_window, rel=0.1)


@pytest.mark.parametrize("window", [0, -1, 2.0, "64", True, float("nan")])
def test_a_window_is_a_positive_number_of_samples(window: object) -> None:
    with pytest.raises(UsageError, match=r"whole number of samples, at least 1, got"):
        require_window(window)


def test_a_window_holds_a_batch_of_every_rank() -> None:
    require_window(None, 64, 8)
    require_window(64, 64)
    require_window(np.int64(128), 64, 2)
    with pytest.raises(UsageError, match=r"window of 63 samples is smaller than a batch of 64;"):
        require_window(63, 64)
    with pytest.raises(UsageError, match=r"batch of 64 on each of 2 ranks; give at least 128"):
        require_window(127, 64, 2)
