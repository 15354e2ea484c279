"""Pictures of people: joints lie where they are, in their colours, and mentors differ."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import DatasetError, MissingTargets, RunFailed, UsageError
from kdcache.heatmaps import decode_keypoints
from kdcache.mentors import Mentor
from kdcache.models import build_network
from kdcache.pictures import draw_people
from kdcache.store import TargetStore
from tests.pose_stores import RECIPE, SIDE, coco_people, faint, fill_people_store, swapped, truth

LEFT, RIGHT, MIDDLE = (255, 140, 0), (0, 150, 255), (120, 230, 100)
PANEL, ACROSS = 512, 512 + 12  # a panel's side here, and from one column to the next
ZOOM = PANEL // SIDE
MARGIN = 12


@pytest.fixture
def images(tmp_path: Path) -> ImageDataset:
    return coco_people(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path, images: ImageDataset) -> TargetStore:
    return fill_people_store(
        tmp_path / "store", images, {"faint": faint, "swapped": swapped, "truth": truth}
    )


@pytest.fixture
def student(tmp_path: Path) -> Path:
    path = tmp_path / "lightpose-mobilenetv2.safetensors"
    save_weights(path, build_network("mbpose", 17, seed=1), {})
    return path


def draw(store: TargetStore, folder: Path, **options: Any) -> dict[str, Any]:
    data_dir = str(store.root.parent / "data")
    return draw_people(store, folder, **{"data_dir": data_dir, "device": "cpu", **options})


def run_cli(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)))


def panels(path: str, columns: int) -> list[list[NDArray[np.uint8]]]:
    """Of each column the panel with joints and the one with heatmaps: what is not paper."""
    with Image.open(path) as file:
        assert (file.format, file.mode) == ("PNG", "RGB")
        pixels = np.asarray(file.convert("RGB"))
    assert pixels.shape[1] == columns * ACROSS + MARGIN
    first = pixels[:, MARGIN : MARGIN + PANEL]
    filled = ~(first == 255).all(2).any(1)  # under heatmaps nothing is white
    below = max(y for y in range(len(filled)) if filled[y : y + PANEL].sum() == PANEL)
    starts = (below - PANEL - 4, below)
    return [
        [pixels[y : y + PANEL, MARGIN + c * ACROSS : MARGIN + c * ACROSS + PANEL] for y in starts]
        for c in range(columns)
    ]


def colour_of(name: str) -> tuple[int, int, int]:
    return LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE


def colours_at(panel: NDArray[np.uint8], points_J2: NDArray[Any]) -> list[tuple[int, ...]]:
    at = np.rint((points_J2 + 0.5) * ZOOM - 0.5).astype(int)
    return [tuple(panel[y, x].tolist()) for x, y in at]


def test_joints_lie_where_they_are_in_their_colours(
    store: TargetStore, images: ImageDataset, tmp_path: Path
) -> None:
    found = draw(store, tmp_path / "pictures", people=[3, 0, 4, 3], view=1)
    assert found["view"] == 1
    assert [one["index"] for one in found["people"]] == [3, 0, 4]
    mirrored_B = RECIPE.parameters(np.array([3, 0, 4]), 1).mirrored_B
    assert mirrored_B.any()
    assert not mirrored_B.all()
    names = images.person_labels.people.skeleton.joints
    for one in found["people"]:
        index = np.array([one["index"]])
        label_J3 = images.labels_in_view(RECIPE, index, 1)[0]
        columns = panels(one["file"], 4)
        shown = [j for j in range(17) if label_J3[j, 2]]
        assert one["labelled"] == len(shown) >= 8
        colours = [colour_of(names[j]) for j in shown]
        assert colours_at(columns[0][0], label_J3[shown, :2]) == colours
        for column, mentor in ((2, "swapped"), (3, "truth")):
            points_J3 = store.targets(1, index, [mentor], "keypoints")[0, 0]
            seen = [j for j in range(17) if points_J3[j, 2] >= 0.1]
            got = colours_at(columns[column][0], points_J3[seen, :2])
            # Of joints decoded to one place the last lies on top.
            last = {tuple(points_J3[j, :2].tolist()): colour_of(names[j]) for j in seen}
            expected = [last[tuple(points_J3[j, :2].tolist())] for j in seen]
            assert sum(a == b for a, b in zip(got, expected, strict=True)) >= len(seen) - 2
            assert one["by_mentor"][mentor]["seen"] == len(seen)
        # One that is too low to be seen leaves the photograph as it is.
        photo = columns[1][0]
        assert not {LEFT, RIGHT} & {tuple(c) for c in photo.reshape(-1, 3).tolist()}
        assert one["by_mentor"]["faint"]["seen"] == 0


def test_mentors_differ_and_heatmaps_have_their_sides_colours(
    store: TargetStore, images: ImageDataset, tmp_path: Path
) -> None:
    (one,) = draw(store, tmp_path / "pictures", people=[1])["people"]
    label_J3 = images.labels_in_view(RECIPE, np.array([1]), 0)[0]
    columns = panels(one["file"], 4)
    labels, unseen, other, same = (column[1] for column in columns)
    assert (labels == same).all()
    assert (other != same).any(2).mean() > 0.05
    assert (columns[2][0] != columns[3][0]).any()
    ankles = [15, 16]  # far from others but each other
    assert label_J3[ankles, 2].all()
    (left, right), (right_there, left_there) = (
        [np.array(c, dtype=int) for c in colours_at(panel, label_J3[ankles, :2])]
        for panel in (labels, other)
    )
    for orange, blue in ((left, right), (left_there, right_there)):
        assert orange[0] > orange[2]
        assert blue[2] > blue[0]
    assert np.abs(unseen.astype(int) - unseen.mean(2, keepdims=True)).max() < 60  # grey nearly
    numbers = one["by_mentor"]
    assert numbers["truth"]["oks"] > max(0.9, numbers["swapped"]["oks"] + 0.1)
    assert numbers["truth"]["distance"] < 2
    assert numbers["truth"]["peak"] > 0.9
    assert numbers["faint"]["peak"] == pytest.approx(0.05, abs=0.01)


def test_a_student_is_drawn_as_it_sees_the_view(
    store: TargetStore, images: ImageDataset, student: Path, tmp_path: Path
) -> None:
    (one,) = draw(
        store, tmp_path / "p", people=[2], mentors=["truth"], against=student
    )["people"]  # fmt: skip
    assert list(one["by_mentor"]) == ["truth", "student"]
    panels(one["file"], 3)
    index = np.array([2])
    network = build_network("mbpose", 17, seed=1).eval()
    pixels = torch.from_numpy(RECIPE(images.images(index), index, 0))
    with torch.no_grad():
        points_J3 = decode_keypoints(network(images.preprocessing(pixels)))[0].numpy()
    label_J3 = images.labels_in_view(RECIPE, index, 0)[0]
    counted = label_J3[:, 2] > 0
    assert one["by_mentor"]["student"]["peak"] == pytest.approx(
        points_J3[counted, 2].mean(), abs=1e-5
    )
    away = np.linalg.norm(points_J3[counted, :2] - label_J3[counted, :2], axis=1).mean()
    assert one["by_mentor"]["student"]["distance"] == pytest.approx(away, rel=1e-3)


def test_files_and_the_contact_sheet(
    store: TargetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a mentor was loaded")

    monkeypatch.setattr("kdcache.mentors.load_mentor", refuse)
    monkeypatch.setattr("kdcache.mentor_library.find_checkpoint", refuse)
    folder = tmp_path / "new" / "pictures"
    found = draw(store, folder)
    names = [f"view0-index{i}-annotation{101 + i}.png" for i in range(5)]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "view0-people.png"]
    assert [Path(one["file"]).name for one in found["people"]] == names
    with Image.open(found["sheet"]) as sheet:
        sheet.load()
        assert sheet.width == 4 * (PANEL // 2) + 3 * 12 + 2 * MARGIN
        assert sheet.height > 5 * PANEL // 2
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert draw(store, folder) == found
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    spread = draw(store, tmp_path / "three", people=3)
    assert [one["index"] for one in spread["people"]] == [0, 2, 4]


def test_many_mentors_take_more_lines(images: ImageDataset, tmp_path: Path) -> None:
    many = fill_people_store(
        tmp_path / "store", images, {f"m{i}": truth for i in range(8)}, views=1
    )
    (one,) = draw(many, tmp_path / "p", people=[0])["people"]
    with Image.open(one["file"]) as file:
        assert file.width == 6 * ACROSS + MARGIN
        assert file.height > 4 * PANEL


@pytest.mark.parametrize("count", [0, 101, -1])
def test_refused_numbers_of_people(store: TargetStore, tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match="pictures are of 1 to 100 people"):
        draw(store, tmp_path / "p", people=count)
    assert not (tmp_path / "p").exists()


def test_what_is_not_there_is_named(
    store: TargetStore, images: ImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(MissingTargets, match="99"):
        draw(store, tmp_path / "p", people=[1, 99])
    with pytest.raises(MissingTargets, match=r"view 2 is not complete.*usable views: 0, 1"):
        draw(store, tmp_path / "p", view=2)
    with pytest.raises(MissingTargets, match="sb50"):
        draw(store, tmp_path / "p", mentors=["sb50"])
    with pytest.raises(DatasetError):
        draw(store, tmp_path / "p", data_dir=str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot be written"):
        draw(store, tmp_path / "file")
    bare = fill_people_store(
        tmp_path / "bare", images, {"truth": truth}, keypoints_of=lambda name: False
    )
    with pytest.raises(MissingTargets, match="no keypoints of truth"):
        draw(bare, tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_logits_have_no_pictures(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    logits = kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "S", views=1)
    result = run_cli("inspect", logits.root, "--pictures", tmp_path / "p")
    assert result.exit_code == 2
    assert "pictures are of people" in result.output


def test_the_command(store: TargetStore, student: Path, tmp_path: Path) -> None:
    data, folder = store.root.parent / "data", tmp_path / "p"
    base = ("inspect", store.root, "--data-dir", data)
    result = run_cli(
        *base, "--pictures", folder, "--people", "0,4", "--view", 1, "--against", student
    )
    assert result.exit_code == 0, result.output
    written = sorted(folder.iterdir())
    assert len(written) == 3
    for path in written:
        assert str(path) in result.output
    assert "student      lightpose-mobilenetv2" in result.output
    told = json.loads(run_cli(*base, "--pictures", folder, "--people", 2, "--json").stdout)
    assert [one["index"] for one in told["pictures"]["people"]] == [0, 4]
    assert (told["pictures"]["view"], len(list(folder.iterdir()))) == (0, 6)
    alone = run_cli(*base, "--people", 3, "--view", 0, "--device", "cpu")
    assert alone.exit_code == 2
    assert "--people, --view, --device: only with --pictures DIR or --against" in alone.output


def test_real_people(real_data: Path, tmp_path: Path) -> None:
    """COCO photographs, real networks: labelled joints are drawn on the replayed views."""
    images = open_dataset("coco-keypoints", samples=12, data_dir=str(real_data))
    mentors = []
    for number, name in enumerate(("mbpose", "tests.pose_networks:centred")):
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, build_network(name, 17, seed=0), {})
        mentors.append(kdcache.load_mentor(name, images, path))
    store = kdcache.precompute_targets(
        images,
        mentors,
        store=tmp_path / "store",
        views=1,
        recipe_options={"height": SIDE, "width": SIDE},
    )
    found = draw_people(store, tmp_path / "p", data_dir=str(real_data), device="cpu")
    assert len(found["people"]) == 10
    names = images.person_labels.people.skeleton.joints
    right = all_of_them = 0
    for one in found["people"]:
        columns = panels(one["file"], 3)
        index = np.array([one["index"]])
        label_J3 = images.labels_in_view(store.recipe, index, 0)[0]
        shown = [j for j in range(17) if label_J3[j, 2]]
        got = colours_at(columns[0][0], label_J3[shown, :2])
        right += sum(c == colour_of(names[j]) for c, j in zip(got, shown, strict=True))
        all_of_them += len(shown)
        assert (columns[1][1] != columns[2][1]).any()
        photo = np.asarray(store.recipe(images.images(index), index, 0)[0]).mean()
        assert abs(columns[1][0].mean() - photo) < 40
    assert all_of_them > 50
    assert right > 0.9 * all_of_them  # some lie under others
