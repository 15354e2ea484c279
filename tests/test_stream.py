"""Streaming a store's views: the same rows as the slow way, damage noticed, forks survived."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.datasets.labels import ClassLabels
from kdcache.errors import (
    DamagedTargets,
    MissingTargets,
    ReplayMismatch,
    StoreMismatch,
    UsageError,
)
from kdcache.mentors import Mentor
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

VIEWS = 3


@pytest.fixture
def store(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> TargetStore:
    """Three views of two mentors in blocks of 25 samples, r8 in float32 and r14 in float16."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 32)
    for mentor, encoder in zip(digits_mentors, ("float16", "float32"), strict=True):
        made = kdcache.precompute_targets(
            digits, [mentor], store=tmp_path / "store", views=VIEWS, encoder=encoder
        )
    assert made.manifest.num_blocks == 4
    return made


@pytest.mark.parametrize("mentors", [None, ["r8"], ["r14", "r8"], ["r8", "r14"]])
def test_rows_equal_the_stores_own(store: TargetStore, mentors: list[str] | None) -> None:
    stream = TargetStream(store, mentors, device="cpu")
    index = np.random.default_rng(0).choice(store.index_N, 40, replace=False)
    for view in (0, 2, 1, 1, 0):
        with stream.view(view) as targets:
            rows = targets[index]
            nothing = targets[index[:0]]
        assert rows.is_contiguous()
        np.testing.assert_array_equal(rows.numpy(), store.targets(view, index, mentors))
        assert nothing.shape == (0, *rows.shape[1:])


def test_two_views_can_be_open_at_once_but_not_three(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu")
    index = store.index_N[:5]
    with stream.view(0) as first, stream.view(2) as second:
        np.testing.assert_array_equal(first[index].numpy(), store.targets(0, index))
        np.testing.assert_array_equal(second[index].numpy(), store.targets(2, index))
        with pytest.raises(UsageError, match="two views"), stream.view(1):
            pass


def test_a_single_usable_view_is_loaded_once(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    made = kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "one", views=1)
    stream = TargetStream(made, device="cpu")
    with stream.view(0):
        pass
    made.mentor("r8").array.chunk(0, 0).unlink()
    with stream.view(0) as targets:
        assert torch.isfinite(targets[made.index_N]).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "delete"])
def test_damage_is_noticed_before_it_teaches(store: TargetStore, damage: str) -> None:
    chunk = store.mentor("r8").array.chunk(1, 2)
    content = bytearray(chunk.read_bytes())
    if damage == "flip":
        content[100] ^= 1
        chunk.write_bytes(content)
    elif damage == "truncate":
        chunk.write_bytes(content[:-1])
    elif damage == "extend":
        chunk.write_bytes(content + b"x")
    else:
        chunk.unlink()
    stream = TargetStream(store, device="cpu")
    with stream.view(0):
        pass  # view 1 is loading in the background and fails there
    with pytest.raises(DamagedTargets, match=r"'r8', view 1, block 2.*kdcache precompute"):
        stream.view(1).__enter__()
    with stream.view(2) as targets:  # the others are still there
        np.testing.assert_array_equal(
            targets[store.index_N].numpy(), store.targets(2, store.index_N)
        )


@pytest.mark.parametrize("window", [None, 30])
def test_what_was_mended_before_it_was_needed_is_no_damage(
    store: TargetStore, window: int | None
) -> None:
    """Loading ahead met a chunk that was away for a moment."""
    stream = TargetStream(store, device="cpu", window=window)
    away = store.mentor("r8").array.chunk(1, 0)
    aside = away.with_name("aside")
    order = store.index_N
    if window is None:
        away.rename(aside)
        with stream.view(0) as targets:
            targets[order[:1]]
            stream.executor().submit(int).result()  # behind the loading of view 1
            aside.rename(away)
        with stream.view(1) as targets:
            np.testing.assert_array_equal(targets[order].numpy(), store.targets(1, order))
        return
    away = store.mentor("r8").array.chunk(1, 1)
    away.rename(aside)
    with stream.ordered_view(1, order) as windowed:
        windowed[order[:1]]
        stream.executor().submit(int).result()
        aside.rename(away)
        np.testing.assert_array_equal(windowed[order[1:]].numpy(), store.targets(1, order[1:]))


def test_unknown_samples_views_and_mentors_are_named(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu")
    with stream.view(0) as targets, pytest.raises(MissingTargets, match="1437"):
        targets[np.array([1437])]
    with pytest.raises(MissingTargets, match="usable views: 0 to 2"):
        stream.view(3).__enter__()
    with pytest.raises(MissingTargets, match="it has r14, r8"):
        TargetStream(store, ["r110"])
    with pytest.raises(UsageError, match="named twice"):
        TargetStream(store, ["r8", "r8"])


def test_views_incomplete_for_a_chosen_mentor_are_not_usable(store: TargetStore) -> None:
    stored = store.mentor("r8")
    (stored.array.commits / stored.commits[1, 3].file_name).unlink()
    stored.array.commit_index.unlink()  # now nothing knows that it was ever committed
    reopened = kdcache.open_store(store.root)
    assert TargetStream(reopened, ["r14"]).views == (0, 1, 2)
    assert TargetStream(reopened).views == (0, 2)


def test_a_view_that_lost_a_commit_record_is_not_passed_over_in_silence(store: TargetStore) -> None:
    stored = store.mentor("r8")
    (stored.array.commits / stored.commits[1, 3].file_name).unlink()
    reopened = kdcache.open_store(store.root)
    assert TargetStream(reopened, ["r14"]).views == (0, 1, 2)
    with pytest.raises(DamagedTargets, match=r"'r8', view 1, block 3 .*record is gone"):
        TargetStream(reopened)
    assert TargetStream(reopened, views=[0, 2]).views == (0, 2)
    with pytest.raises(DamagedTargets, match=r"'r8', view 1, block 3 .*kdcache precompute"):
        TargetStream(reopened, views=[0, 1])


def test_another_dataset_is_refused_with_both_sides(store: TargetStore) -> None:
    stream = TargetStream(store)
    other = open_dataset("digits", samples=100)
    labels_N = other.labels(np.arange(1438))
    labels_N[store.index_N[3]] = 9 - labels_N[store.index_N[3]]
    other._labels = ClassLabels(labels_N, 10)
    with pytest.raises(StoreMismatch, match=r"labels_sha256\s+\w{64}\s+\w{64}"):
        stream.require_dataset(other)


def test_a_whole_dataset_is_narrowed_to_the_stores_samples(store: TargetStore) -> None:
    narrowed = TargetStream(store).require_dataset(open_dataset("digits"))
    np.testing.assert_array_equal(narrowed.index_N, store.index_N)
    nested = TargetStream(store).require_dataset(open_dataset("digits", samples=50))
    assert len(nested) == 50
    with pytest.raises(MissingTargets, match="holds no targets"):
        TargetStream(store).require_dataset(open_dataset("digits", samples=101))


def test_views_that_replay_differently_are_refused(
    store: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = TargetStream(store)
    monkeypatch.setattr(
        "kdcache.philox.below", lambda words, bound: np.zeros(len(words), dtype=np.int64)
    )
    with pytest.raises(ReplayMismatch, match="written by"):
        stream.require_dataset(open_dataset("digits"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_the_same_rows(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu")
    expected = store.targets(1, store.index_N)
    with stream.view(0):
        pass  # the parent's thread is busy with view 1, or has just been
    child = os.fork()
    if child == 0:
        try:
            with stream.view(1) as targets:
                same = np.array_equal(targets[store.index_N].numpy(), expected)
            os._exit(0 if same else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_used_stream_can_be_sent_to_another_process(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu")
    with stream.view(0):
        pass
    copied = pickle.loads(pickle.dumps(stream))
    with copied.view(1) as targets:
        expected = store.targets(1, store.index_N)
        np.testing.assert_array_equal(targets[store.index_N].numpy(), expected)
