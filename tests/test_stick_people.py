"""Procedural people: their files are COCO's, and joints lie where they are drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from benchmarks.stick_figures import HEIGHT, WIDTH, draw_scene
from benchmarks.stick_people import SPLITS, main, photo_parts
from kdcache.datasets.skeleton import COCO_17

LEFT_ANKLE, RIGHT_ANKLE = COCO_17.joints.index("left ankle"), COCO_17.joints.index("right ankle")


def written(folder: Path, *options: str) -> Path:
    result = CliRunner().invoke(main, [str(folder), *options], env={"KDCACHE_DATA": None})
    assert result.exit_code == 0, result.output
    return folder


def annotations(folder: Path, split: str) -> dict[str, Any]:
    text = (folder / "annotations" / f"person_keypoints_{split}.json").read_text()
    document: dict[str, Any] = json.loads(text)
    return document


def decoded(run_lengths: dict[str, Any]) -> NDArray[np.bool_]:
    """A mask from COCO's uncompressed run lengths, pixel by pixel."""
    height, width = run_lengths["size"]
    mask_HW = np.zeros((height, width), dtype=bool)
    at, inside = 0, False
    for length in run_lengths["counts"]:
        for pixel in range(at, at + length):
            mask_HW[pixel % height, pixel // height] = inside
        at, inside = at + length, not inside
    assert at == height * width
    return mask_HW


def test_a_small_set_has_the_right_counts_and_opens(tmp_path: Path) -> None:
    folder = written(tmp_path / "sticks", "--people", "9", "--test-people", "4", "--seed", "3")
    for split, people in zip(SPLITS, (9, 4), strict=True):
        document = annotations(folder, split)
        assert "procedural" in document["info"]["description"]
        assert [a["id"] for a in document["annotations"]] == list(range(1, people + 1))
        (category,) = document["categories"]
        assert category["keypoints"] == [name.replace(" ", "_") for name in COCO_17.joints]
        images = {image["id"]: image for image in document["images"]}
        assert {a["image_id"] for a in document["annotations"]} == images.keys()
        files = {path.name for path in (folder / split).iterdir()}
        assert {image["file_name"] for image in images.values()} == files
        for image in images.values():
            with Image.open(folder / split / image["file_name"]) as file:
                file.load()
                assert (file.format, file.mode) == ("JPEG", "RGB")
                assert file.size == (image["width"], image["height"]) == (WIDTH, HEIGHT)


def test_annotations_say_what_their_masks_show(tmp_path: Path) -> None:
    folder = written(tmp_path / "sticks", "--people", "12", "--seed", "1")
    for annotation in annotations(folder, "train2017")["annotations"]:
        mask_HW = decoded(annotation["segmentation"])
        rows, columns = mask_HW.nonzero()
        assert annotation["area"] == len(rows) > 0
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
        joints_J3 = np.array(annotation["keypoints"]).reshape(17, 3)
        assert annotation["num_keypoints"] == (joints_J3[:, 2] > 0).sum()
        assert (joints_J3[joints_J3[:, 2] == 0] == 0).all()
        assert (joints_J3[:, 2] == 2).sum() >= 4
        for column, row, visibility in joints_J3:
            assert 0 <= column < WIDTH
            assert 0 <= row < HEIGHT
            if visibility == 2:
                assert mask_HW[row, column]


def test_visible_joints_lie_on_drawn_pixels_of_their_person_only() -> None:
    seen, hidden, lighter = 0, 0, []
    for number in range(40):
        scene = draw_scene(3, (7, number))
        drawn_HW = (scene.pixels_HW3 != scene.background_HW3).any(2)
        brightness_HW = scene.pixels_HW3.astype(int).sum(2)
        for person in scene.people:
            others_HW = sum(other.mask_HW for other in scene.people if other is not person)
            for x, y, visibility in person.joints_J3:
                if visibility == 2:
                    seen += 1
                    assert drawn_HW[y, x]
                    assert person.mask_HW[y, x]
                    assert not np.asarray(others_HW)[y, x]
                hidden += visibility == 1
            left, right = person.joints_J3[[LEFT_ANKLE, RIGHT_ANKLE]]
            if left[2] == right[2] == 2:
                lighter.append(brightness_HW[left[1], left[0]] > brightness_HW[right[1], right[0]])
    assert len(lighter) > 40
    assert all(lighter)  # left limbs are lighter: left and right are not mixed up
    assert 0.05 < hidden / (seen + hidden) < 0.5


def test_everything_is_a_function_of_the_seed(tmp_path: Path) -> None:
    def content(name: str, seed: str) -> dict[str, bytes]:
        folder = written(tmp_path / name, "--people", "5", "--seed", seed)
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")}

    first = content("a", "3")
    assert first == content("b", "3")
    other = content("c", "4")
    assert not set(first.values()) & set(other.values())
    assert first["train2017/000000000001.jpg"] != first["val2017/000000000001.jpg"]


def test_more_people_keep_the_images_before(tmp_path: Path) -> None:
    few = written(tmp_path / "few", "--people", "6", "--seed", "5")
    many = written(tmp_path / "many", "--people", "12", "--seed", "5")
    names = sorted(path.name for path in (few / "train2017").iterdir())[:-1]  # the last may be cut
    assert names
    for name in names:
        image = Path("train2017") / name
        assert (few / image).read_bytes() == (many / image).read_bytes()


def test_backgrounds_are_parts_of_photographs_without_people(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels_HW3 = np.zeros((400, 600, 3), dtype=np.uint8)
    pixels_HW3[:, :300] = 255, 0, 0  # a person
    pixels_HW3[:, 300:] = 0, 0, 255
    Image.fromarray(pixels_HW3).save(tmp_path / "images" / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "missing.png"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 300, 400]}],
    }
    (tmp_path / "person_keypoints_train2017_subset.json").write_text(json.dumps(document))
    part = photo_parts(tmp_path)
    found = [part(np.random.default_rng(seed)) for seed in range(10)]
    assert all(pixels.shape == (HEIGHT, WIDTH, 3) for pixels in found)
    assert any((pixels == (0, 0, 255)).all() for pixels in found)
    assert not any((pixels == (255, 0, 0)).all(2).any() for pixels in found)


def test_real_backgrounds_where_they_are(real_data: Path) -> None:
    if not (real_data / "coco" / "images").is_dir():
        pytest.skip(f"no coco/images in KDCACHE_DATA={real_data}")
    part = photo_parts(real_data / "coco")
    nothing = photo_parts(real_data / "nowhere")
    seeds = range(8)
    same = [
        np.array_equal(part(np.random.default_rng(s)), nothing(np.random.default_rng(s)))
        for s in seeds
    ]
    assert sum(same) < len(seeds) / 2


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty; name a new folder" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
