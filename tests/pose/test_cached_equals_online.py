"""A student of a store is the student of its live mentors, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdcache
from kdcache.classroom import build_loss
from kdcache.datasets import ImageDataset
from kdcache.heatmaps import SIGMA
from kdcache.mentors import MentorPool, RunShape, load_mentor
from kdcache.models import build_network
from kdcache.store import TargetStore
from tests.pose.conftest import MENTORS, Run, precomputed
from tests.train.comparing import same_weights, timeless

CPU = torch.device("cpu")
KL = {"divergence": "kl", "kd_scale": 0.03}


def require_equal_runs(train: Run, tmp_path: Path, checkpoints: Any, **options: Any) -> Any:
    """Trains from the store, then from its live mentors; the records."""
    cached = list(train("cached", **options))
    online = list(train("online", targets="online", checkpoints=checkpoints, **options))
    assert timeless(cached) == timeless(online)
    assert same_weights(tmp_path / "cached", tmp_path / "online")
    return cached


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="classroom"),
        pytest.param({"switches": KL, "window": 12}, id="kl, in windows"),
        pytest.param(
            {"switches": {"granularity": "sample", "confidence": "oks"}},
            id="sample, oks",
            marks=pytest.mark.slow,
        ),
        pytest.param({"window": 12}, id="in windows", marks=pytest.mark.slow),
        pytest.param({"switches": KL}, id="kl", marks=pytest.mark.slow),
        pytest.param({"method": "average"}, id="average", marks=pytest.mark.slow),
    ],
)
def test_every_number_and_weight_is_the_same(
    tmp_path: Path, train: Run, checkpoints: dict[str, str], options: dict[str, Any]
) -> None:
    records = require_equal_runs(train, tmp_path, checkpoints, **options)
    assert all(record["mentor_loss"] > 0 for record in records)


@pytest.mark.slow
def test_of_one_mentor_by_kd(tmp_path: Path, train: Run, checkpoints: dict[str, str]) -> None:
    only = {"lp18": checkpoints["lp18"]}
    require_equal_runs(train, tmp_path, only, mentors=("lp18",), method="kd")


def test_of_mentors_with_flip_test(
    tmp_path: Path,
    train: Run,
    people: ImageDataset,
    checkpoints: dict[str, str],
    exact_store: TargetStore,
) -> None:
    flipped = precomputed(
        tmp_path / "flipped", people, checkpoints, encoder="float32", views=1, flip_test=True
    )
    index = people.index_N
    assert not np.allclose(flipped.targets(0, index), exact_store.targets(0, index), atol=1e-3)
    require_equal_runs(train, tmp_path, checkpoints, store=str(flipped.root), epochs=1)


def test_batches_are_alike_down_to_their_memory_order(
    people: ImageDataset, checkpoints: dict[str, str], exact_store: TargetStore
) -> None:
    """The order of a sum over pixels, and with it a loss's last bits, is that of the memory."""
    mentors = [load_mentor(name, people, checkpoints[name]) for name in MENTORS]
    pool = MentorPool(mentors, device=CPU, run_shape=RunShape(batch=64))
    online = kdcache.OnlineTargets(people, pool, exact_store.recipe, [0, 1])
    cached = kdcache.TargetStream(exact_store, MENTORS, device="cpu")
    loaders = [kdcache.ReplayLoader(people, source, 8, device="cpu") for source in (online, cached)]
    for ours, theirs in zip(*loaders, strict=True):
        assert ours.heatmaps is not None
        assert theirs.heatmaps is not None
        assert ours.logits is theirs.logits is None
        assert ours.heatmaps.stride() == theirs.heatmaps.stride()
        for name in ("images", "labels", "index", "heatmaps"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("method", ["average", "kd"])
def test_of_heatmap8_the_first_loss_is_within_what_its_bound_implies(
    people: ImageDataset, exact_store: TargetStore, small_store: TargetStore, method: str
) -> None:
    """|sum (s - m)^2 - sum (s - m')^2| <= sum b (2 |s - m| + b), for |m - m'| <= b."""
    names = MENTORS if method == "average" else MENTORS[:1]
    student = build_network("mbpose", 17, seed=1).train()
    loss = build_loss(method, task="pose")
    encoder = small_store.mentor("lp18").encoder
    loaders = [
        kdcache.ReplayLoader(people, store, 8, mentors=names, device="cpu")
        for store in (exact_store, small_store)
    ]
    for exact, lossy in zip(*loaders, strict=True):
        assert exact.heatmaps is not None
        assert lossy.heatmaps is not None
        with torch.no_grad():
            output = student(exact.images)
            ours = loss(output, exact.labels, exact.heatmaps)
            theirs = loss(output, lossy.labels, lossy.heatmaps)
        bound = torch.from_numpy(np.array(encoder.bound(exact.heatmaps.numpy())))
        assert ((exact.heatmaps - lossy.heatmaps).abs() <= bound).all()
        away = (output[:, None] - exact.heatmaps).abs().double()
        visible_BJ = (exact.labels[..., 2] > 0).double()
        most_BMJ = (bound * (2 * away + bound)).sum((3, 4)) / (np.pi * SIGMA**2)
        most_BM = (most_BMJ * visible_BJ[:, None]).sum(2) / visible_BJ.shape[1]
        off_BM = (ours.term_BM - theirs.term_BM).abs()
        assert (off_BM <= most_BM + 1e-5).all()
        assert float((ours.mentor - theirs.mentor).abs()) <= 0.05 * float(ours.mentor)
        assert ours.task == theirs.task
