"""AP and PCKh of stored keypoints: those of the official evaluators, wherever the views went."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kdcache
from kdcache.card import store_card
from kdcache.cli import main
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import DatasetError, StoreMismatch, UsageError
from kdcache.keypoint_accuracy import (
    inspect_with_accuracy,
    keypoint_accuracy,
    keypoint_accuracy_at_hand,
)
from kdcache.mentors import Mentor
from kdcache.store import TargetStore
from kdcache.train.pose_accuracy import pose_metrics
from kdcache.views import PoseCrop
from tests.datasets.pose_files import mpii_person, write_mpii
from tests.pose_stores import (
    RECIPE,
    SIDE,
    coco_folder,
    coco_people,
    fill_people_store,
    swapped,
    truth,
)


@pytest.fixture
def images(tmp_path: Path) -> ImageDataset:
    return coco_people(tmp_path / "data", people=8)


@pytest.fixture
def store(tmp_path: Path, images: ImageDataset) -> TargetStore:
    return fill_people_store(tmp_path / "store", images, {"swapped": swapped, "truth": truth})


def run_cli(*args: object, data: Path | None = None) -> Result:
    more = [] if data is None else ["--data-dir", str(data)]
    env = {"KDCACHE_DATA": None}
    return CliRunner().invoke(main, [*map(str, args), *more], env=env)


def test_it_is_what_a_plain_loop_finds(store: TargetStore, images: ImageDataset) -> None:
    found = keypoint_accuracy(store, data_dir=str(store.root.parent / "data"))
    assert RECIPE.parameters(store.index_N, 0).mirrored_B.any()
    people, mirrored = images.person_labels.people, images.person_labels.people.skeleton.mirrored
    for name, numbers in found.items():
        points_NJ3 = np.empty((len(images), 17, 3))
        for place, index in enumerate(store.index_N):
            one = np.array([index])
            matrix = np.vstack([RECIPE.affine(people.take(one), one, 0)[0], [0, 0, 1]])
            for joint, (x, y, score) in enumerate(store.targets(0, one, [name], "keypoints")[0, 0]):
                back = np.linalg.inv(matrix) @ [x, y, 1]
                is_mirrored = RECIPE.parameters(one, 0).mirrored_B[0]
                points_NJ3[place, mirrored[joint] if is_mirrored else joint] = *back[:2], score
        expected = pose_metrics(images, points_NJ3)
        assert numbers.pop("view") == 0
        assert numbers == pytest.approx(expected)
    assert found["truth"]["ap"] > 80  # people lie upon each other: some are taken for others
    assert found["truth"]["ap"] > found["swapped"]["ap"] + 5


def test_it_is_part_of_inspect_where_the_data_is(store: TargetStore) -> None:
    data = store.root.parent / "data"
    told = run_cli("inspect", store.root, data=data)
    assert told.exit_code == 0, told.output
    assert "top-1" not in told.output
    (head,) = [line for line in told.output.splitlines() if line.startswith("mentor ")]
    assert head.split()[:2] == ["mentor", "AP"]
    found = json.loads(run_cli("inspect", store.root, "--json", data=data).stdout)
    expected = keypoint_accuracy(store, data_dir=str(data))
    for mentor in found["mentors"]:
        assert mentor["keypoints"] == expected[mentor["name"]]
        assert mentor["accuracy"] == expected[mentor["name"]]["ap"]
        assert f"{mentor['accuracy']:.2f}" in told.output
    for args in (("--no-accuracy",), ()):
        without = run_cli("inspect", store.root, "--json", *args, data=data if args else None)
        for mentor in json.loads(without.stdout)["mentors"]:
            assert (mentor["accuracy"], mentor["keypoints"]) == (None, None)
    plain = run_cli("inspect", store.root)
    assert plain.exit_code == 0
    assert [line.split()[1] for line in plain.output.splitlines() if line.startswith("truth")] == [
        "-"
    ]
    asked = run_cli("inspect", store.root, "--accuracy")
    assert asked.exit_code == 2
    assert "KDCACHE_DATA" in asked.output


def test_other_data_is_not_taken(store: TargetStore, tmp_path: Path) -> None:
    other = str(coco_folder(tmp_path / "other", people=3))
    with pytest.raises(StoreMismatch):
        keypoint_accuracy(store, data_dir=other)
    assert keypoint_accuracy_at_hand(store, data_dir=other) == {}
    with pytest.raises(DatasetError):
        keypoint_accuracy(store, data_dir=str(tmp_path / "nowhere"))
    assert kdcache.inspect_store(store)["mentors"][0]["accuracy"] is None


def test_many_people_are_only_measured_when_asked(
    store: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(store.root.parent / "data")
    assert keypoint_accuracy_at_hand(store, data_dir=data)
    monkeypatch.setattr("kdcache.keypoint_accuracy.UNASKED", 7)
    assert keypoint_accuracy_at_hand(store, data_dir=data) == {}
    found = inspect_with_accuracy(store, asked=True, data_dir=data)
    assert all(mentor["accuracy"] is not None for mentor in found["mentors"])


def test_a_mentor_without_keypoints_has_none(tmp_path: Path, images: ImageDataset) -> None:
    store = fill_people_store(
        tmp_path / "some",
        images,
        {"swapped": swapped, "truth": truth},
        views=1,
        keypoints_of=lambda name: name == "truth",
    )
    found = inspect_with_accuracy(store, data_dir=str(tmp_path / "data"))
    assert [m["accuracy"] is None for m in found["mentors"]] == [True, False]


def test_logits_are_as_before(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "S", views=1)
    assert inspect_with_accuracy(store) == kdcache.inspect_store(store)
    assert run_cli("inspect", store.root).output.count("top-1") == 1
    with pytest.raises(UsageError, match="a store of logits"):
        keypoint_accuracy(store)


def test_mpii_has_pckh(tmp_path: Path) -> None:
    write_mpii(tmp_path / "mpii", [mpii_person(), mpii_person("b.jpg")])
    images = open_dataset("mpii", data_dir=tmp_path)
    recipe = PoseCrop(height=SIDE, width=SIDE)
    store = fill_people_store(tmp_path / "store", images, {"truth": truth}, recipe=recipe, views=1)
    found = inspect_with_accuracy(store, data_dir=str(tmp_path))
    assert found["metric"] == "PCKh"
    (mentor,) = found["mentors"]
    assert mentor["accuracy"] == mentor["keypoints"]["pckh"] > 90
    assert " PCKh " in run_cli("inspect", store.root, data=tmp_path).output


def test_a_card_of_people(store: TargetStore) -> None:
    card = store_card(store, licence="cc-by-4.0")
    for part in ("8 people of 17 joints each", "keypoint-detection", "heatmaps, keypoints"):
        assert part in card
    for part in ("top-1", "classes", "KL"):
        assert part not in card
    assert f"--recipe-option height={SIDE}" in card


def test_real_people(real_data: Path, tmp_path: Path) -> None:
    """Labels as a mentor, in turned, mirrored and scaled views of COCO's photographs: near 100."""
    images = open_dataset("coco-keypoints", data_dir=str(real_data))
    store = fill_people_store(tmp_path / "store", images, {"truth": truth}, views=1)
    found = keypoint_accuracy(store, data_dir=str(real_data))
    assert found["truth"]["ap"] > 80  # joints outside the views are lost
