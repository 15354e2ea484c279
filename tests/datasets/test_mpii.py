"""MPII's people in HRNet's form: its coordinates, boxes and heads; bad files refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.datasets.annotation_file import Reading
from kdcache.datasets.mpii import NO_JOINT, NO_PLACE, read_mpii_people
from kdcache.datasets.skeleton import MPII_16
from kdcache.errors import DatasetError
from tests.datasets.pose_files import coco_document, mpii_person, person, write_mpii


def read(folder: Path, people: Any) -> Reading:
    return read_mpii_people(*write_mpii(folder, people))


def refusal(folder: Path, people: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder, people)
    assert str(caught.value).startswith(f"{folder / 'train.json'}: ")
    return str(caught.value)


def test_one_person_by_hand(tmp_path: Path) -> None:
    people = read(tmp_path, [mpii_person(headbox=[10, 20, 40, 60])]).people
    assert people.skeleton is MPII_16
    # Matlab's (5, 4) is the pixel (4, 3).
    assert people.joints_NJ3[0, 0].tolist() == [4, 3, 2]
    assert people.joints_NJ3[0, 15].tolist() == [34, 33, 2]
    # Centre (30, 20) moved down by 15 x 0.2 = 3, from 1 to 0: (29, 22); the square has 40 pixels.
    assert people.box_N4[0].tolist() == pytest.approx([9, 2, 40, 40])
    assert people.head_N[0] == pytest.approx(0.6 * 50)  # a diagonal of 30, 40, 50
    assert people.area_N[0] == pytest.approx(0.21 * 1600)


def test_the_published_crop_is_the_common_rules(real_data: Path) -> None:
    """HRNet's centre and scale, step by step as lib/dataset/mpii.py has them."""
    import json

    file = real_data / "mpii" / "test_mpii.json"
    people = read_mpii_people(file, real_data / "mpii").people
    entries = json.loads(file.read_text())
    assert len(people) == len(entries) == 5
    for i, entry in enumerate(entries):
        centre, scale = np.array(entry["center"]), entry["scale"]
        centre[1] = centre[1] + 15 * scale
        scale = scale * 1.25
        centre = centre - 1
        left, top, width, height = people.box_N4[i]
        assert [left + width / 2, top + height / 2] == pytest.approx(centre)
        assert 1.25 * width == 1.25 * height == pytest.approx(200 * scale)
        seen = np.array(entry["joints_vis"]) == 1
        assert np.array_equal(people.joints_NJ3[i, :, 2], 2.0 * seen)
        assert people.joints_NJ3[i, seen, :2] == pytest.approx(np.array(entry["joints"])[seen] - 1)
        assert not people.joints_NJ3[i, ~seen].any()
        assert people.files[i] == entry["image"]
    assert people.annotation_N.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(people.head_N).all()
    # The joints lie on the person: nearly all within the box enlarged by 1.25.
    middle = people.box_N4[:, None, :2] + people.box_N4[:, None, 2:] / 2
    away = np.abs(people.joints_NJ3[..., :2] - middle) / people.box_N4[:, None, 2:]
    assert (away.max(-1) < 1.25 / 2)[people.joints_NJ3[..., 2] > 0].mean() > 0.95


def test_people_of_one_image_share_its_id(tmp_path: Path) -> None:
    names = ["b.jpg", "a.jpg", "b.jpg", "a.jpg"]
    people = read(tmp_path, [mpii_person(name) for name in names]).people
    assert people.image_N.tolist() == [0, 1, 0, 1]
    assert people.files == tuple(names)


def test_what_is_left_out_is_counted_with_its_ids(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        [
            mpii_person(joints_vis=[0] * 16),
            mpii_person(center=[-1, -1]),
            mpii_person(),
            mpii_person(scale=0),
            mpii_person(scale=-1),
        ],
    )
    assert reading.people.annotation_N.tolist() == [2]
    assert reading.left_out == {NO_JOINT: (0,), NO_PLACE: (1, 3, 4)}
    assert reading.report() == (
        "left out, no labelled joint: 1 annotation (0)",
        "left out, no centre or scale: 3 annotations (1, 3, 4)",
    )


def test_an_unlabelled_joint_may_be_anything(tmp_path: Path) -> None:
    joints = [[float("nan"), -1.0], *mpii_person()["joints"][1:]]
    people = read(tmp_path, [mpii_person(joints=joints, joints_vis=[0] + [1] * 15)]).people
    assert people.joints_NJ3[0, 0].tolist() == [0, 0, 0]


JOINTS = mpii_person()["joints"]
REFUSED: dict[str, tuple[Any, str]] = {
    "joint count": (mpii_person(joints=JOINTS[:15]), "1: joints must be 16 x 2, got 15 x 2"),
    "flags": (mpii_person(joints_vis=[1] * 17), "1: joints_vis must be 16, got 17"),
    "flag 2": (mpii_person(joints_vis=[2] * 16), "joints_vis must be 0 or 1"),
    "NaN": (mpii_person(joints=[[float("nan"), 1], *JOINTS[1:]]), "1: joints has nan"),
    "ragged": (mpii_person(joints=[[1], *JOINTS[1:]]), "1: joints must be numbers (16 x 2)"),
    "NaN centre": (mpii_person(center=[float("nan"), 1]), "1: center has nan"),
    "infinite scale": (mpii_person(scale=float("inf")), "1: scale has inf"),
    "scale of text": (mpii_person(scale="1"), "1: scale must be numbers (one), got '1'"),
    "head": (mpii_person(headbox=[1, 1, 1, 1]), "headbox [1.0, 1.0, 1.0, 1.0] has zero size"),
    "head of 3": (mpii_person(headbox=[1, 1, 1]), "headbox must be 4, got 3"),
    "outside": (mpii_person("../a.jpg"), "is not a name inside the image folder"),
    "missing": (mpii_person("c.jpg"), "1 of its 2 images are not in"),
    "a number": (3, "item 1 is a number, expected an object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_person_that_contradicts_the_format_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    wrong, reason = REFUSED[kind]
    assert reason in refusal(tmp_path, [mpii_person(), wrong])


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    wanted = "train.json or valid.json"
    message = refusal(tmp_path, coco_document([person(1)]))
    assert "it is a COCO annotation file" in message
    assert wanted in message
    unjointed = [{k: v for k, v in mpii_person().items() if k != "joints"}]
    message = refusal(tmp_path, unjointed)
    assert "test.json has none" in message
    assert wanted in message
    assert "expected a list, got an object" in refusal(tmp_path, {"a": 1})
    assert "nobody in it" in refusal(tmp_path, [])
    assert "Expecting ',' delimiter: line 2" in refusal(tmp_path, '[{"image": "a.jpg"}\n {}]')
