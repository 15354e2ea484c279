"""Pose datasets by name: every layout that is documented, in its order; what is said otherwise."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from kdcache.datasets.open_people import OpenedPeople, open_people
from kdcache.errors import DatasetError, UsageError
from tests.datasets.pose_files import coco_document, mpii_person, person, write_coco, write_mpii


def put_coco(base: Path, file: str, images: str, annotation: int) -> None:
    """One person with this annotation id, in that layout."""
    made, folder = write_coco(base / "made", coco_document([person(annotation)]))
    (base / file).parent.mkdir(parents=True, exist_ok=True)
    made.rename(base / file)
    shutil.copytree(folder, base / images, dirs_exist_ok=True)
    shutil.rmtree(base / "made")


OFFICIAL = "annotations/person_keypoints_{}2017.json"
SUBSET = "person_keypoints_{}2017_subset.json"
COCO_LAYOUTS = (
    (OFFICIAL, "{}2017"),
    (f"coco/{OFFICIAL}", "coco/{}2017"),
    (SUBSET, "images"),
    (f"coco/{SUBSET}", "coco/images"),
)


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("test", "val")])
def test_cocos_layouts_count_in_their_order(tmp_path: Path, split: str, theirs: str) -> None:
    for annotation, (file, images) in reversed(list(enumerate(COCO_LAYOUTS))):
        put_coco(tmp_path, file.format(theirs), images.format(theirs), annotation)
        opened = open_people("coco-keypoints", split, tmp_path)
        assert opened.people.annotation_N.tolist() == [annotation]
        assert opened.annotations == tmp_path / file.format(theirs)
        assert opened.images == tmp_path / images.format(theirs)
        assert opened.read_photos(np.array([0])).photos[0].shape == (48, 64, 3)


def test_images_below_images_are_found(tmp_path: Path) -> None:
    put_coco(tmp_path, OFFICIAL.format("train"), "images/train2017", 3)
    assert open_people("coco-keypoints", "train", tmp_path).images.parent.name == "images"


MPII_LAYOUTS = (("annot/{}.json", "images"), ("{}.json", "images"), ("{}.json", "."))


@pytest.mark.parametrize(("split", "theirs"), [("train", "train"), ("test", "valid")])
@pytest.mark.parametrize(("file", "images"), MPII_LAYOUTS)
def test_mpiis_layouts(tmp_path: Path, split: str, theirs: str, file: str, images: str) -> None:
    base = tmp_path / "mpii"
    made, folder = write_mpii(tmp_path / "made", [mpii_person()])
    shutil.copytree(folder, base / images, ignore=shutil.ignore_patterns("*.json"))
    path = base / file.format(theirs)
    path.parent.mkdir(exist_ok=True)
    shutil.copy(made, path)
    opened = open_people("mpii", split, tmp_path)
    assert (opened.annotations, opened.images) == (path, base / images)
    assert opened.report == ()
    assert len(opened.read_photos(np.array([0]))) == 1
    other = {"train": "test", "test": "train"}[split]
    with pytest.raises(DatasetError, match="looked for in these places"):
        open_people("mpii", other, tmp_path)


def test_mpiis_one_file_serves_both_splits_and_says_so(tmp_path: Path) -> None:
    write_mpii(tmp_path / "mpii", [mpii_person()], "some.json")
    for split in ("train", "test"):
        (note,) = open_people("mpii", split, tmp_path).report
        assert note.startswith("some.json is MPII's only file here and serves as train and as test")
    write_mpii(tmp_path / "mpii", [mpii_person()], "other.json")
    with pytest.raises(
        DatasetError, match=r"has other\.json, some\.json; name the one .* valid\.json"
    ):
        open_people("mpii", "test", tmp_path)


@pytest.mark.parametrize("name", ["coco-keypoints", "mpii"])
def test_what_is_nowhere_is_said_with_every_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_people(name, "test", tmp_path)
    message = str(caught.value)
    places = {
        "coco-keypoints": [file.format("val") for file, _ in COCO_LAYOUTS],
        "mpii": ["mpii/annot/valid.json", "mpii/valid.json"],
    }[name]
    for place in places:
        assert str(tmp_path / place) in message
    assert "--data-dir or $KDCACHE_DATA" in message


def test_annotations_without_their_images_are_said(tmp_path: Path) -> None:
    put_coco(tmp_path, OFFICIAL.format("train"), "elsewhere", 3)
    with pytest.raises(DatasetError, match=r"its images are not: expected the folder .*train2017"):
        open_people("coco-keypoints", "train", tmp_path)


def test_other_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean coco-keypoints"):
        open_people("coco-keypoint", "train", tmp_path)
    with pytest.raises(UsageError, match="split must be train or test, got 'val'"):
        open_people("mpii", "val", tmp_path)


def inside(opened: OpenedPeople) -> float:
    """The share of labelled joints that lie inside their photographs, all of them read."""
    people = opened.people
    photos = opened.read_photos(np.arange(len(people))).photos
    size_N2 = np.array([photo.shape[1::-1] for photo in photos])
    x_y_NJ2 = people.joints_NJ3[..., :2]
    within_NJ2 = (x_y_NJ2 >= 0) & (x_y_NJ2 < size_N2[:, None])
    labelled_NJ = people.joints_NJ3[..., 2] > 0
    return float(np.all(within_NJ2, axis=-1, where=labelled_NJ[..., None]).mean())


@pytest.mark.parametrize(
    ("name", "split", "people"),
    [
        ("coco-keypoints", "train", 143),
        ("coco-keypoints", "test", 231),
        ("mpii", "train", 5),
        ("mpii", "test", 5),
    ],
)
def test_the_real_data_is_found_and_all_of_it_is_read(
    real_data: Path, name: str, split: str, people: int
) -> None:
    opened = open_people(name, split, real_data)
    assert (opened.name, opened.split, len(opened.people)) == (name, split, people)
    assert inside(opened) == 1
    assert opened.preprocessing.mean == (0.485, 0.456, 0.406)
    assert len(set(opened.file_sha256(np.arange(people)))) == len(set(opened.people.files))
    if name == "coco-keypoints":
        assert len(opened.report) == len(opened.left_out) == 2
