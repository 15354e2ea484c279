"""A mentor that is wrong about one joint stops teaching that joint, and no other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import kdcache
from kdcache.classroom import LossOutput, build_loss
from kdcache.datasets import ImageDataset
from kdcache.datasets.skeleton import COCO_17
from kdcache.heatmaps import STRIDE, gaussian_heatmaps
from kdcache.store import TargetStore
from kdcache.views import PoseAffine
from tests.pose.truth import Heatmapper, heatmapper, store_of

RECIPE = PoseAffine(height=96, width=96, scale=0.1)
WRONG = COCO_17.joints.index("left wrist")
OTHER = COCO_17.joints.index("right wrist")
AWAY = 6  # heatmap pixels
STUDENT_AWAY = 2.0  # heatmap pixels; its confidence is then exp(-2 (1 - exp(-1/4))), 0.64


def shifted(right: Heatmapper) -> Heatmapper:
    """One joint's map moved to the side."""

    def make(joints_BJ3: NDArray[np.float32]) -> torch.Tensor:
        maps_BJHW = right(joints_BJ3)
        maps_BJHW[:, WRONG] = maps_BJHW[:, WRONG].roll(AWAY, dims=2)
        return maps_BJHW

    return make


def blank(right: Heatmapper) -> Heatmapper:
    """One joint's map empty."""

    def make(joints_BJ3: NDArray[np.float32]) -> torch.Tensor:
        maps_BJHW = right(joints_BJ3)
        maps_BJHW[:, WRONG] = 0
        return maps_BJHW

    return make


def swapped(right: Heatmapper) -> Heatmapper:
    """The wrists swapped."""

    def make(joints_BJ3: NDArray[np.float32]) -> torch.Tensor:
        maps_BJHW = right(joints_BJ3)
        maps_BJHW[:, [WRONG, OTHER]] = maps_BJHW[:, [OTHER, WRONG]]
        return maps_BJHW

    return make


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, people: ImageDataset) -> TargetStore:
    right = heatmapper(RECIPE)
    mentors = {
        "blank": blank(right), "right": right, "shifted": shifted(right), "swapped": swapped(right),
    }  # fmt: skip
    root: Path = tmp_path_factory.mktemp("one") / "store"
    return store_of(root, people, RECIPE, 2, mentors)


def lessons(
    people: ImageDataset, store: TargetStore, wrong: str, granularity: str = "joint"
) -> Iterator[tuple[LossOutput, torch.Tensor]]:
    """What the trainer's loss decides about each batch of two views, and the labels.

    Of the mentors "right" and `wrong`. The student sees every joint, a little to the side.
    """
    stream = kdcache.TargetStream(store, ["right", wrong], device="cpu")
    loss = build_loss("classroom", task="pose", granularity=granularity)
    loader = kdcache.ReplayLoader(people, stream, 8, device="cpu")
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            beside = batch.labels + torch.tensor([STRIDE * STUDENT_AWAY, 0, 0])
            student = gaussian_heatmaps(beside, 24, 24).requires_grad_()
            out = loss(student, batch.labels, batch.primary)
            out.total.backward()  # type: ignore[no-untyped-call]
            yield out, batch.labels


@pytest.mark.parametrize(
    ("wrong", "joints"),
    [("shifted", [WRONG]), ("blank", [WRONG]), ("swapped", [WRONG, OTHER])],
)
def test_it_teaches_all_joints_but_that_one(
    people: ImageDataset, store: TargetStore, wrong: str, joints: list[int]
) -> None:
    others = [j for j in range(17) if j not in joints]
    stopped = taught = 0
    for out, labels in lessons(people, store, wrong):
        assert out.joints is not None
        visible_BJ = labels[..., 2] > 0
        if wrong == "swapped":  # wrists that lie together are right when they are swapped, too
            apart = (labels[:, WRONG, :2] - labels[:, OTHER, :2]).norm(dim=1) > 5 * STRIDE
            both = visible_BJ[:, WRONG] & visible_BJ[:, OTHER]
            chosen = both & apart
        else:
            chosen = visible_BJ[:, WRONG]
        active_BMJ = out.joints.active_BMJ
        assert (active_BMJ[:, 0] == visible_BJ).all()  # the right mentor teaches every joint
        assert (active_BMJ[:, 1][:, others] == visible_BJ[:, others]).all()
        assert not active_BMJ[chosen][:, 1][:, joints].any()
        assert out.seen_BKC.grad is not None
        pull_BMJ = out.seen_BKC.grad[:, 1:].view(8, 2, 17, -1).abs().sum(3)
        assert ((pull_BMJ[:, 1] > 0) == active_BMJ[:, 1]).all()  # what it pulls at is as said
        assert (pull_BMJ[:, 0][visible_BJ] > 0).all()
        stopped += int(chosen.sum())
        taught += int(visible_BJ[:, others].sum())
    assert stopped >= 10
    assert taught >= 300


def test_decided_by_sample_it_goes_on_teaching_it(people: ImageDataset, store: TargetStore) -> None:
    """One joint of seventeen moves a mean over joints too little: why joints decide by default."""
    for out, labels in lessons(people, store, "shifted", "sample"):
        assert out.joints is not None
        many = (labels[..., 2] > 0).sum(1) > 5
        assert (out.joints.active_BMJ[many, 1, WRONG] == (labels[many, WRONG, 2] > 0)).all()
