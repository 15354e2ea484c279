"""COCO's people: every one a sample, but those the official rules leave out; bad files refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.datasets.annotation_file import Reading
from kdcache.datasets.coco_keypoints import (
    CROWD,
    NO_AREA,
    NO_BOX,
    NO_JOINT,
    OTHER,
    read_coco_people,
)
from kdcache.datasets.skeleton import COCO_17
from kdcache.errors import DatasetError
from tests.datasets.pose_files import coco_document, keypoints, person, write_coco


def read(folder: Path, document: Any) -> Reading:
    return read_coco_people(*write_coco(folder, document))


def refusal(folder: Path, document: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder, document)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'person_keypoints_train2017_subset.json'}: ")
    return message


@pytest.mark.parametrize(
    ("split", "kept", "none", "crowds"), [("train", 143, 93, 8), ("val", 231, 125, 9)]
)
def test_the_real_people_are_those_a_plain_reading_finds(
    real_data: Path, split: str, kept: int, none: int, crowds: int
) -> None:
    file = real_data / "coco" / f"person_keypoints_{split}2017_subset.json"
    reading = read_coco_people(file, real_data / "coco" / "images")
    document = json.loads(file.read_text())
    images = {image["id"]: image for image in document["images"]}
    expected = [a for a in document["annotations"] if a["num_keypoints"] > 0 and not a["iscrowd"]]
    people = reading.people
    assert len(people) == len(expected) == kept
    assert people.skeleton is COCO_17
    for i, entry in enumerate(expected):
        image = images[entry["image_id"]]
        assert people.annotation_N[i] == entry["id"]
        assert people.image_N[i] == image["id"]
        assert people.files[i] == image["file_name"]
        assert people.joints_NJ3[i].ravel().tolist() == entry["keypoints"]
        assert (people.joints_NJ3[i, :, 2] > 0).sum() == entry["num_keypoints"]
        assert people.area_N[i] == entry["area"]
        x, y, width, height = entry["bbox"]
        right = min(image["width"] - 1, x + width - 1)
        bottom = min(image["height"] - 1, y + height - 1)
        assert people.box_N4[i].tolist() == pytest.approx([x, y, right - x, bottom - y])
    assert {reason: len(ids) for reason, ids in reading.left_out.items()} == {
        CROWD: crowds,
        NO_JOINT: none,
    }
    assert reading.ignored is not None
    assert (len(reading.ignored.image_N), reading.ignored.crowd_N.sum()) == (none + crowds, crowds)
    assert np.isnan(people.head_N).all()


def test_one_person_by_hand(tmp_path: Path) -> None:
    people = read(tmp_path, coco_document([person(7, 2, keypoints=keypoints(3))])).people
    assert (len(people), people.files) == (1, ("000000000002.jpg",))
    assert people.joints_NJ3[0, :3].tolist() == [[10, 20, 1], [11, 21, 2], [12, 22, 1]]
    assert not people.joints_NJ3[0, 3:].any()
    # 30 wide from 8: pixels 8 to 37, so SimpleBaseline's width is 29; likewise 24 of 25.
    assert people.box_N4[0].tolist() == [8, 15.5, 29, 24]


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    boxes = {1: [-10.0, -5.0, 30.0, 20.0], 2: [50.0, 40.0, 100.0, 100.0]}
    people = read(tmp_path, coco_document([person(i, bbox=b) for i, b in boxes.items()])).people
    assert people.box_N4.tolist() == [[0, 0, 29, 19], [50, 40, 13, 7]]


def test_what_the_rules_leave_out_is_counted_with_its_ids(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        coco_document(
            [
                person(5, iscrowd=1, keypoints=[0] * 51),
                person(11),
                person(6, keypoints=[0] * 51, num_keypoints=0),
                person(8, bbox=[10, 10, 0, 0]),
                person(9, bbox=[70, 10, 20, 20]),
                person(4, bbox=[10, -30, 20, 20.0]),
                person(3, area=0),
                person(2, category_id=18),
                person(1, image=2),
            ]
        ),
    )
    assert reading.people.annotation_N.tolist() == [11, 1]
    assert reading.left_out == {
        CROWD: (5,),
        NO_JOINT: (6,),
        NO_BOX: (8, 9, 4),
        NO_AREA: (3,),
        OTHER: (2,),
    }
    assert reading.report()[0] == "left out, a crowd: 1 annotation (5)"
    ignored = reading.ignored
    assert ignored is not None
    assert ignored.image_N.tolist() == [1, 1]
    assert ignored.crowd_N.tolist() == [True, False]
    assert ignored.box_N4.tolist() == [[8.0, 15.5, 30.0, 25.0]] * 2


def test_a_joint_outside_the_image_stays_labelled_and_is_said(tmp_path: Path) -> None:
    moved = keypoints()
    moved[0], moved[4] = -3, 48
    reading = read(tmp_path, coco_document([person(1), person(2, keypoints=moved)]))
    assert reading.people.joints_NJ3[1, 0].tolist() == [-3, 20, 1]
    (note,) = reading.notes
    assert note == "2 labelled joints lie outside their image and stay labelled (annotations 2)"


def test_many_ids_are_all_kept_and_some_are_said(tmp_path: Path) -> None:
    empty = [person(i, keypoints=[0] * 51) for i in range(100, 150)]
    reading = read(tmp_path, coco_document([*empty, person(1)]))
    assert reading.left_out[NO_JOINT] == tuple(range(100, 150))
    assert reading.report()[0].endswith("118, 119, and 30 more)")


def changed(position: int, value: Any) -> list[Any]:
    values: list[Any] = list(keypoints())
    values[position] = value
    return values


WRONG_PEOPLE = {
    "wrong joint count": (
        person(17, keypoints=keypoints()[:48]),
        "17: keypoints must be 51, got 48",
    ),
    "no keypoints": (
        {k: v for k, v in person(17).items() if k != "keypoints"},
        "person_keypoints_",
    ),
    "keypoints of text": (person(17, keypoints=changed(3, "x")), "keypoints must be numbers"),
    "keypoints of lists": (person(17, keypoints=changed(3, [1, 2])), "keypoints must be numbers"),
    "NaN": (person(17, keypoints=changed(3, float("nan"))), "annotation 17: keypoints has nan"),
    "infinity": (
        person(17, keypoints=changed(4, float("inf"))),
        "annotation 17: keypoints has inf",
    ),
    "far away": (person(17, keypoints=changed(4, 1e7)), "keypoints has 10000000.0"),
    "huge": (person(17, keypoints=changed(4, 10**400)), "keypoints must be numbers"),
    "visibility": (person(17, keypoints=changed(2, 3)), "visibility 3.0, expected 0, 1 or 2"),
    "NaN visibility": (person(17, keypoints=changed(2, float("nan"))), "visibility nan"),
    "NaN box": (person(17, bbox=[1, 2, float("nan"), 3]), "annotation 17: bbox has nan"),
    "short box": (person(17, bbox=[1, 2, 3]), "annotation 17: bbox must be 4, got 3"),
    "area of text": (person(17, area="big"), "annotation 17: area must be numbers (one)"),
    "NaN area": (person(17, area=float("nan")), "annotation 17: area is nan"),
    "unlisted image": (person(17, image=9), "annotation 17: its image 9 is not listed"),
    "image id of text": (person(17, image_id="1"), "17: image_id must be a whole number, got '1'"),
    "no id": ({k: v for k, v in person(17).items() if k != "id"}, "item 1: id must be a whole num"),
    "true as id": (person(17, id=True), "item 1: id must be a whole number, got True"),
    "id beyond int64": (person(17, id=2**70), "item 1: id must be a whole number"),
    "not an object": ([1, 2], "annotations: item 1 is a list, expected an object"),
    "twice": (person(16), "annotation 16: this id comes twice"),
}


@pytest.mark.parametrize("kind", WRONG_PEOPLE)
def test_a_person_that_contradicts_the_format_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    wrong, reason = WRONG_PEOPLE[kind]
    message = refusal(tmp_path, coco_document([person(16), wrong]))  # type: ignore[list-item]
    assert reason in message
    assert len(message) < 500 + len(str(tmp_path))


NAMED = coco_document([])["categories"][0]
OTHER_FILES: dict[str, tuple[Any, str]] = {
    "instances": (
        coco_document([person(1)], categories=[{"id": 1, "name": "person"}]),
        "another task (instances)",
    ),
    "captions": (
        {"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a man"}]},
        "another task (captions)",
    ),
    "panoptic": (
        {"images": [], "annotations": [{"segments_info": []}], "categories": []},
        "another task (panoptic)",
    ),
    "image info": ({"images": []}, "without annotations (image_info)"),
    "results": ([{"image_id": 1, "keypoints": keypoints(), "score": 1}], "it is a list"),
    "anything": ({"a": 1}, "no COCO annotation file"),
    "a number": ("3", "no COCO annotation file"),
    "other joints": (
        coco_document([person(1)], categories=[NAMED | {"keypoints": ["nose", "tail"]}]),
        "people have the joints nose, tail; expected nose, left eye",
    ),
    "nobody": (coco_document([person(1, iscrowd=1)]), "nobody in it has labelled joints"),
    "images of text": (coco_document([], images=0) | {"images": "x"}, "images: expected a list"),
    "image twice": (
        coco_document([person(1)], images=0) | {"images": 2 * coco_document([])["images"][:1]},
        "image 1: this id comes twice",
    ),
    "cut short": (json.dumps(coco_document([person(1)]), indent=1)[:900], "not JSON: "),
    "empty": ("", "not JSON"),
    "half a pair": ('{"images": [], "a": "\\ud800"}', "half a surrogate pair"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    document, reason = OTHER_FILES[kind]
    message = refusal(tmp_path, document)
    assert reason in message
    if "task" in reason or "file" in reason:
        assert "person_keypoints_train2017.json" in message


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    text = json.dumps(coco_document([person(1)]), indent=1).replace('"area": 300.0', '"area" 300.0')
    line = text[: text.index('"area" 300.0')].count("\n") + 1
    assert f"not JSON: Expecting ':' delimiter: line {line} " in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "..\\x.jpg", ""])
def test_an_image_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    document = coco_document([person(1)])
    document["images"][0]["file_name"] = name
    assert "image 1: file_name" in refusal(tmp_path, document)


def test_missing_images_are_named_with_their_annotations(tmp_path: Path) -> None:
    document = coco_document([person(5, 3), person(6, 3), person(7, 1), person(8, 4)], images=4)
    message = refusal(tmp_path, document)
    assert "2 of its 3 images are not in" in message
    assert "000000000003.jpg (annotation 5), 000000000004.jpg (annotation 8)" in message


def test_images_of_people_left_out_may_be_missing(tmp_path: Path) -> None:
    document = coco_document([person(5), person(6, 3, iscrowd=1)], images=3)
    assert read(tmp_path, document).people.annotation_N.tolist() == [5]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: No such file or directory"):
        read_coco_people(tmp_path / "none.json", tmp_path)
    file, images = write_coco(tmp_path, coco_document([person(5)]))
    with pytest.raises(DatasetError, match=r"1 of its 1 images are not in .*nowhere: 0+1\.jpg"):
        read_coco_people(file, images / "nowhere")
    with pytest.raises(DatasetError, match="it is a folder"):
        read_coco_people(images, images)


def test_joints_of_the_category_that_are_no_list_are_refused(tmp_path: Path) -> None:
    document = coco_document([person(1)])
    document["categories"][0]["keypoints"] = 5
    assert "must be a list" in refusal(tmp_path, document)


def test_a_box_that_shows_nobody_is_left_out(tmp_path: Path) -> None:
    document = coco_document([person(1), person(2)])
    document["annotations"][1]["bbox"] = [10, 10, 1.2, 30]  # SimpleBaseline's clipping takes 1 off
    reading = read(tmp_path, document)
    assert reading.left_out == {NO_BOX: (document["annotations"][1]["id"],)}


def test_a_file_made_to_cost_memory_is_refused_unread(tmp_path: Path) -> None:
    annotations, images = write_coco(tmp_path, coco_document([person(1)]))
    annotations.write_text('{"images": [], "annotations": [' + "[]," * 100_000 + "[]]}")
    with pytest.raises(DatasetError, match="of lists and objects, not of people"):
        read_coco_people(annotations, images)
