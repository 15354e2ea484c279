"""ReplayLoader: every sample once, the right pixels and targets, resumable at every batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import UsageError
from kdcache.loader import Batch, ReplayLoader
from kdcache.mentors import Mentor, MentorPool, RunShape
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly
from kdcache.store import TargetStore


@pytest.fixture
def store(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "store", views=2, view_seed=5, encoder="float32"
    )


def same_batch(a: Batch, b: Batch) -> bool:
    assert a.logits is not None
    assert b.logits is not None
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.index, b.index)
        and torch.equal(a.logits, b.logits)
    )


def test_a_batch_is_the_views_pixels_their_labels_and_their_targets(
    store: TargetStore, digits: ImageDataset
) -> None:
    loader = ReplayLoader(digits, store, 16, seed=3, mentors=["r8", "r14"], normalize=None)
    recipe = kdcache.views.CropFlip(size=8, padding=1, flip=False, seed=5)
    for epoch, view in ((0, 0), (1, 1)):
        loader.set_epoch(epoch)
        for batch in loader:
            index = batch.index.numpy()
            pixels = recipe(digits.images(index), index, view)
            np.testing.assert_array_equal(batch.images.numpy(), pixels)
            np.testing.assert_array_equal(batch.labels.numpy(), digits.labels(index))
            assert batch.logits is not None
            np.testing.assert_array_equal(
                batch.logits.numpy(), store.targets(view, index, ["r8", "r14"])
            )


def test_images_are_normalised_for_the_student(store: TargetStore, digits: ImageDataset) -> None:
    raw = next(iter(ReplayLoader(digits, store, 16, normalize=None)))
    ready = next(iter(ReplayLoader(digits, store, 16)))
    mean, std = digits.preprocessing.mean[0], digits.preprocessing.std[0]
    expected = (raw.images.double() / 255 - mean) / std
    assert ready.images.dtype == torch.float32
    torch.testing.assert_close(ready.images.double(), expected, atol=1e-6, rtol=0)


def test_every_sample_once_an_epoch_in_another_order_each(
    store: TargetStore, digits: ImageDataset
) -> None:
    loader = ReplayLoader(digits, store, 16, drop_last=False)
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append(np.concatenate([batch.index.numpy() for batch in loader]))
        np.testing.assert_array_equal(np.sort(orders[-1]), digits.index_N)
    assert not np.array_equal(orders[0], orders[1])
    assert len(loader) == 7
    assert len(ReplayLoader(digits, store, 16)) == 6


def test_views_come_round_again_with_one_warning(store: TargetStore, digits: ImageDataset) -> None:
    source = ReplayLoader(digits, store, 16).source
    with pytest.warns(UserWarning, match=r"epoch 2 uses view 0 again: only 2 views") as caught:
        views = [source.view_of_epoch(epoch) for epoch in range(5)]
    assert views == [0, 1, 0, 1, 0]
    assert len(caught) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_one_epoch_order(
    store: TargetStore, digits: ImageDataset, world_size: int
) -> None:
    whole = ReplayLoader(digits, store, 8).epoch_order(1)
    ranks = []
    for rank in range(world_size):
        loader = ReplayLoader(digits, store, 8, rank=rank, world_size=world_size)
        loader.set_epoch(1)
        ranks.append(np.concatenate([batch.index.numpy() for batch in loader]))
    assert len({len(rank) for rank in ranks}) == 1
    interleaved = np.stack(ranks, axis=1).ravel()
    np.testing.assert_array_equal(interleaved, whole[: len(interleaved)])


def test_it_goes_on_after_every_batch(store: TargetStore, digits: ImageDataset) -> None:
    loader = ReplayLoader(digits, store, 16, seed=1)
    loader.set_epoch(1)
    batches = list(loader)
    for handed_out in range(len(batches) + 1):
        interrupted = ReplayLoader(digits, store, 16, seed=1)
        interrupted.set_epoch(1)
        iterator = iter(interrupted)
        for _ in range(handed_out):
            next(iterator)
        resumed = ReplayLoader(digits, store, 16, seed=1)
        resumed.load_state_dict(interrupted.state_dict())
        resumed.set_epoch(1)
        rest = list(resumed)
        assert len(rest) == len(batches) - handed_out
        for ours, theirs in zip(rest, batches[handed_out:], strict=True):
            assert same_batch(ours, theirs)


def test_breaking_off_does_not_shorten_the_next_iteration(
    store: TargetStore, digits: ImageDataset
) -> None:
    loader = ReplayLoader(digits, store, 16)
    for _ in loader:
        break
    loader.set_epoch(0)
    assert len(list(loader)) == 6
    assert loader.state_dict() == {"epoch": 1, "done": 0}


@pytest.mark.parametrize("batch_size", [16, 50, 64, 100])
def test_live_mentors_say_bit_for_bit_what_was_stored(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], batch_size: int
) -> None:
    pool = MentorPool(digits_mentors, device=torch.device("cpu"), run_shape=RunShape())
    stored = ReplayLoader(digits, store, batch_size, mentors=pool.names, drop_last=False)
    live = OnlineTargets(digits, pool, stored.source.recipe, [0, 1])
    online = ReplayLoader(digits, live, batch_size, drop_last=False)
    for epoch in (0, 1):
        stored.set_epoch(epoch)
        online.set_epoch(epoch)
        for ours, theirs in zip(stored, online, strict=True):
            assert same_batch(ours, theirs)


def test_labels_only_sees_the_same_views(store: TargetStore, digits: ImageDataset) -> None:
    stored = ReplayLoader(digits, store, 16, seed=2)
    bare = ReplayLoader(digits, LabelsOnly(stored.source.recipe), 16, seed=2)
    for ours, theirs in zip(bare, stored, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.index, theirs.index)
        assert ours.logits is None


def test_any_map_style_dataset_will_do(store: TargetStore) -> None:
    digits = open_dataset("digits")

    class MapStyle:
        num_classes = 10

        def __len__(self) -> int:
            return len(digits)

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            at = np.array([index])
            return digits.images(at)[0].transpose(1, 2, 0), int(digits.labels(at)[0])

    ours = ReplayLoader(digits, store, 16, normalize=None)
    foreign = ReplayLoader(MapStyle(), store, 16, normalize=None)
    for a, b in zip(ours, foreign, strict=True):
        assert same_batch(a, b)


def test_impossible_loaders_say_why(store: TargetStore, digits: ImageDataset) -> None:
    source = LabelsOnly(ReplayLoader(digits, store, 16).source.recipe)
    with pytest.raises(UsageError, match="has its own mentors"):
        ReplayLoader(digits, source, 16, mentors=["r8"])
    with pytest.raises(UsageError, match="lower the batch size"):
        ReplayLoader(digits, store, 101)
    with pytest.raises(UsageError, match="rank must lie in"):
        ReplayLoader(digits, store, 16, rank=2, world_size=2)
    with pytest.raises(UsageError, match="at least 1"):
        ReplayLoader(digits, store, 0)
