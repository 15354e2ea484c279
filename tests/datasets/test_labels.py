"""Labels by index, in a view, in part, and in an identity: classes, and people's joints."""

import numpy as np
import pytest

from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.datasets.labels import ClassLabels, PersonLabels
from kdcache.datasets.people import People
from kdcache.datasets.skeleton import COCO_17
from kdcache.errors import UsageError
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.views import CropFlip, PoseCrop


def some_people(count: int, seed: int = 0) -> People:
    draw = np.random.default_rng(seed)
    joints_NJ3 = draw.uniform(20, 80, (count, COCO_17.num_joints, 3))
    joints_NJ3[..., 2] = draw.integers(0, 3, joints_NJ3.shape[:2])
    return People(
        skeleton=COCO_17,
        joints_NJ3=joints_NJ3,
        box_N4=np.tile([10.0, 10.0, 80.0, 80.0], (count, 1)),
        area_N=np.full(count, 3000.0),
        annotation_N=np.arange(count) * 7 + 3,
        image_N=np.arange(count),
        head_N=np.full(count, np.nan),
        files=("a.jpg",) * count,
    )


def people_dataset(people: People) -> ImageDataset:
    return ImageDataset(
        name="people",
        split="train",
        fetch=lambda index_B: pytest.fail("labels need no photographs"),
        labels=PersonLabels(people),
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
        view_parameters={},
        describe=lambda index_K: {"pixels_sha256": "-"},
    )


def test_a_view_changes_nothing_about_a_class() -> None:
    labels = ClassLabels(np.array([2, 0, 1]), 3)
    index_B = np.array([2, 0])
    assert labels.task == CLASSIFICATION
    assert labels.ids(index_B).tolist() == [1, 2]
    assert labels.in_view(CropFlip(), index_B, 5).tolist() == [1, 2]


def test_joints_lie_where_the_view_puts_them() -> None:
    people = some_people(6)
    dataset = people_dataset(people)
    index_B = np.array([4, 1])
    recipe = PoseCrop(height=128, width=96)
    assert dataset.task == POSE
    assert dataset.num_classes == 17
    found = dataset.labels_in_view(recipe, index_B, 0)
    assert found.dtype == np.float32
    assert np.array_equal(found, recipe.joints(people.take(index_B), index_B, 0))
    assert dataset.labels(index_B).tolist() == [31, 10]


def test_a_part_of_people_is_the_first_ones_and_keeps_their_integers() -> None:
    dataset = people_dataset(some_people(6))
    assert dataset.select(4).index_N.tolist() == [0, 1, 2, 3]
    assert dataset.subset(np.array([5, 2])).index_N.tolist() == [2, 5]
    for count in (0, 7):
        with pytest.raises(UsageError, match="1 to 6"):
            dataset.select(count)


def test_an_identity_knows_joints_boxes_and_ids() -> None:
    base = people_dataset(some_people(6)).identity()
    assert (base["task"], base["num_classes"], len(base["joints"])) == (POSE, 17, 17)
    assert base == people_dataset(some_people(6)).identity()
    for name in ("joints_NJ3", "box_N4", "image_N", "annotation_N"):
        people = some_people(6)
        getattr(people, name)[3] += 1
        changed = people_dataset(people).identity()
        different = {key for key in base if base[key] != changed[key]}
        assert different == {"labels_sha256" if name == "annotation_N" else "people_sha256"}


def test_classes_are_no_people() -> None:
    dataset = ImageDataset(
        name="classes",
        split="train",
        fetch=lambda index_B: np.zeros((len(index_B), 3, 4, 4), dtype=np.uint8),
        labels=ClassLabels(np.zeros(5, dtype=np.int64), 1),
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3),
        view_parameters={},
    )
    assert "task" not in dataset.identity()
    with pytest.raises(UsageError, match="has classes, no people"):
        _ = dataset.person_labels
