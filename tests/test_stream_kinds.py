"""Features and raw logits in training: stored and live ones alike, through stream and loader."""

import pickle
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.errors import DamagedTargets, MissingTargets, UsageError
from kdcache.loader import ReplayLoader
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly
from kdcache.store import TargetStore
from kdcache.stream import TargetStream
from kdcache.views import Recipe

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def mentors(
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> list[Mentor]:
    """r14 and r8, of 64 features, and wrn16, of 128."""
    return [*digits_mentors, load_mentor("wrn16", digits, digits_checkpoint("wrn16"))]


@pytest.fixture
def store(tmp_path: Path, digits: ImageDataset, mentors: list[Mentor]) -> TargetStore:
    """Two views of three mentors, r8 in float16, the others in float32."""
    for mentor, encoder in zip(mentors, ("float32", "float16", "float32"), strict=True):
        made = kdcache.precompute_targets(
            digits,
            [mentor],
            store=tmp_path / "store",
            views=2,
            encoder=encoder,
            features=True,
            keep_logsumexp=True,
        )
    return made


@pytest.mark.parametrize("names", [None, ["r8"], ["wrn16", "r8"], ["r8", "wrn16", "r14"]])
def test_rows_equal_the_stores_own(store: TargetStore, names: list[str] | None) -> None:
    stream = TargetStream(store, names, device="cpu", features=True, raw_logits=True)
    assert stream.feature_widths == tuple(128 if m == "wrn16" else 64 for m in stream.mentors)
    index = np.random.default_rng(0).choice(store.index_N, 40, replace=False)
    for view in (0, 1, 1, 0):
        with stream.view(view) as targets:
            got, logits = targets.gather_targets(index), targets[index]
        assert got.logits is not None
        assert got.features is not None
        raw = store.targets(view, index, names)
        raw = raw + store.targets(view, index, names, kind="logsumexp")[..., None]
        assert got.logits.numpy().tobytes() == logits.numpy().tobytes() == raw.tobytes()
        expected = store.targets(view, index, names, kind="features")
        assert [f.numpy().tobytes() for f in got.features] == [f.tobytes() for f in expected]
        assert [f.shape for f in got.features] == [(40, w) for w in stream.feature_widths]
        assert all(f.is_contiguous() and f.dtype == torch.float32 for f in got.features)


def test_only_what_is_asked_for_is_given(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu")
    assert stream.feature_widths is None
    with stream.view(0) as targets:
        got = targets.gather_targets(store.index_N)
    assert got.features is None
    assert got.logits is not None
    np.testing.assert_array_equal(got.logits.numpy(), store.targets(0, store.index_N))


def test_memory_is_two_views_of_what_is_asked_for(store: TargetStore) -> None:
    encoded = {"logits": 10 * (4 + 2 + 4), "logsumexp": 4 * 3, "features": 64 * (4 + 2) + 128 * 4}
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, encoded["logits"]),
        ({"raw_logits": True}, encoded["logits"] + encoded["logsumexp"]),
        ({"features": True, "raw_logits": True}, sum(encoded.values())),
    ]
    for options, bytes_a_sample in cases:
        stream = TargetStream(store, device="cpu", **options)
        with stream.view(0), stream.view(1):
            held = [slot._resident.num_bytes for slot in stream._slots if slot._resident]
        assert held == [100 * bytes_a_sample] * 2
        made = stream._slots[0]._resident
        with stream.view(1), stream.view(0):
            pass
        assert stream._slots[0]._resident is made  # reused


def test_damaged_features_are_noticed_where_they_are_used(store: TargetStore) -> None:
    chunk = store.mentor("r8", "features").array.chunk(1, 2)
    content = bytearray(chunk.read_bytes())
    content[77] ^= 1
    chunk.write_bytes(content)
    with TargetStream(store, device="cpu").view(1) as targets:
        assert torch.isfinite(targets[store.index_N]).all()
    stream = TargetStream(store, device="cpu", features=True)
    with stream.view(0):
        pass
    with pytest.raises(DamagedTargets, match="features of mentor 'r8', view 1, block 2"):
        stream.view(1).__enter__()


def test_a_used_stream_can_be_sent_to_another_process(store: TargetStore) -> None:
    stream = TargetStream(store, device="cpu", features=True)
    with stream.view(0):
        pass
    copied = pickle.loads(pickle.dumps(stream))
    with copied.view(1) as targets:
        features = targets.gather_targets(store.index_N).features
    assert features is not None
    expected = store.targets(1, store.index_N, kind="features")[0]
    np.testing.assert_array_equal(features[0].numpy(), expected)


def test_what_a_store_lacks_is_told_with_the_command_that_adds_it(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    root = tmp_path / "plain"
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=3)
    with pytest.raises(MissingTargets, match="no features of r14, r8 in any of its views, 0 to 2"):
        ReplayLoader(digits, root, 16, features=True)
    with pytest.raises(MissingTargets, match="no logsumexp of r8") as error:
        TargetStream(root, ["r8"], raw_logits=True)
    command = shlex.split(str(error.value).split("with: ")[1])
    assert command[:2] == ["kdcache", "precompute"]
    assert command[-1] == "--keep-logsumexp"
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=2, features=True)
    stream = TargetStream(root, device="cpu", features=True)
    assert stream.views == (0, 1)  # complete for both kinds
    with pytest.raises(MissingTargets, match=r"asked for are 0 to 2; complete for .* are 0, 1"):
        TargetStream(root, device="cpu", features=True, views=range(3))


def test_the_loader_hands_them_out_sample_by_sample(
    store: TargetStore, digits: ImageDataset
) -> None:
    loader = ReplayLoader(
        digits, store, 16, mentors=["wrn16", "r14"], features=True, raw_logits=True, device="cpu"
    )
    plain = ReplayLoader(digits, store, 16, mentors=["wrn16", "r14"], device="cpu")
    for batch, other in zip(loader, plain, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.images, other.images)
        assert other.features is None
        assert batch.features is not None
        expected = store.targets(0, batch.index.numpy(), ["wrn16", "r14"], kind="features")
        for got, rows in zip(batch.features, expected, strict=True):
            np.testing.assert_array_equal(got.numpy(), rows)
        assert batch.logits is not None
        assert other.logits is not None
        torch.testing.assert_close(batch.logits.log_softmax(-1), other.logits, rtol=0, atol=1e-5)
        assert not torch.equal(batch.logits, other.logits)


def test_live_mentors_give_the_same_bits_as_the_store(
    tmp_path: Path, digits: ImageDataset, mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(
        digits,
        mentors,
        store=tmp_path / "exact",
        views=2,
        encoder="float32",
        features=True,
        keep_logsumexp=True,
    )
    pool = MentorPool(mentors, device=CPU, run_shape=RunShape())
    online = OnlineTargets(digits, pool, store.recipe, [0, 1], features=True, raw_logits=True)
    names = [mentor.name for mentor in mentors]
    stored = TargetStream(store, names, device="cpu", features=True, raw_logits=True)
    assert online.feature_widths == stored.feature_widths == (64, 64, 128)
    for epoch in range(2):
        loaders = [ReplayLoader(digits, source, 16, device="cpu") for source in (online, stored)]
        for loader in loaders:
            loader.set_epoch(epoch)
        for ours, theirs in zip(*loaders, strict=True):
            assert ours.logits is not None
            assert theirs.logits is not None
            assert torch.equal(ours.logits, theirs.logits)
            for live, kept in zip(ours.features or (), theirs.features or (), strict=True):
                assert torch.equal(live, kept)
                assert not live.is_inference()  # a loss may save it for its backward pass
    assert ours.features is not None


def test_a_source_decides_itself_what_it_gives(store: TargetStore, digits: ImageDataset) -> None:
    source = TargetStream(store, device="cpu")
    asked: list[dict[str, Any]] = [{"features": True}, {"raw_logits": True}]
    for options in asked:
        with pytest.raises(UsageError, match="decides itself whether it gives features"):
            ReplayLoader(digits, source, 16, **options)
    labels = ReplayLoader(digits, LabelsOnly(store.recipe), 16, device="cpu")
    batch = next(iter(labels))
    assert (batch.logits, batch.features) == (None, None)


class _PlainTensors:
    """A source of somebody's own, whose views are plain tensors."""

    rows_per_request = 1
    mentors = ("a", "b")

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._logits_NMC = torch.arange(2000.0)[:, None, None].expand(-1, 2, 10)

    def view_of_epoch(self, epoch: int) -> int:
        return epoch

    @contextmanager
    def view(self, number: int) -> Iterator[Any]:
        yield self._logits_NMC


def test_a_source_of_ones_own_needs_no_more_than_logits(
    store: TargetStore, digits: ImageDataset
) -> None:
    loader = ReplayLoader(digits, _PlainTensors(store.recipe), 16, device="cpu")
    for batch in loader:
        assert batch.logits is not None
        assert batch.features is None
        assert torch.equal(batch.logits[:, 1, 3], batch.index.float())
