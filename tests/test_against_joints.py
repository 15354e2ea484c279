"""`inspect --against` of people: equal to a plain loop over people, mentors and joints."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.errors import CheckpointError, UsageError
from kdcache.models import build_network
from kdcache.store import TargetStore
from tests.pose_networks import centred
from tests.pose_stores import RECIPE, coco_people, faint, fill_people_store, swapped, truth, without

WRIST = 9
CENTRED = "tests.pose_networks:centred"
NAMES = ["faint", "nowrist", "swapped", "truth"]


@pytest.fixture
def images(tmp_path: Path) -> ImageDataset:
    return coco_people(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path, images: ImageDataset) -> TargetStore:
    sees = {"faint": faint, "nowrist": without(WRIST), "swapped": swapped, "truth": truth}
    return fill_people_store(tmp_path / "store", images, sees)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """It takes every joint to be in the middle, and sees all but the nose and one eye."""
    path = tmp_path / "student.safetensors"
    save_weights(path, centred(17), {})
    return path


def inspect(store: TargetStore, student: Path, **options: Any) -> dict[str, Any]:
    data_dir = str(store.root.parent / "data")
    given = {"network": CENTRED, "data_dir": data_dir, "device": "cpu", **options}
    return kdcache.inspect_classroom(store, student, **given)


def confidence(map_HW: NDArray[np.floating], x: float, y: float) -> float:
    """METHODS' peak-normalised agreement with the label, cell by cell."""
    peak = max(max(row) for row in map_HW.tolist())
    if peak < 0.1:
        return 0.0
    apart = energy = 0.0
    for row, cells in enumerate(map_HW.tolist()):
        for column, cell in enumerate(cells):
            label = math.exp(-((column - x / 4) ** 2 + (row - y / 4) ** 2) / 8)
            apart += (max(cell, 0.0) / peak - label) ** 2
            energy += label**2
    return math.exp(-apart / energy)


def plain_loop(
    store: TargetStore, images: ImageDataset, views: list[int], tau: float
) -> dict[str, Any]:
    network = centred(17).eval()
    rows: list[dict[str, Any]] = []
    for view in views:
        for index in store.index_N:
            one = np.array([index])
            pixels = torch.from_numpy(RECIPE(images.images(one), one, view))
            with torch.no_grad():
                maps_JHW = network(images.preprocessing(pixels))[0].numpy()
            targets_MJHW = store.targets(view, one, NAMES)[0]
            for joint, (x, y, weight) in enumerate(images.labels_in_view(RECIPE, one, view)[0]):
                if weight == 0:
                    continue
                a_s = confidence(maps_JHW[joint], x, y)
                a_M = [confidence(maps[joint], x, y) for maps in targets_MJHW]
                whole = a_s + sum(a_M)
                active = [a > 0 and a >= a_s for a in a_M]
                gap = [max(0.0, 1 - a_s / a) if a > 0 else 0.0 for a in a_M]
                weights = [len(a_M) * a / whole for a in a_M]
                rows.append(
                    {"j": joint, "s": a_s, "a": a_M, "on": active, "gap": gap, "w": weights}
                )
    return {
        "rows": rows,
        "untaught": np.mean([not any(row["on"]) for row in rows]),
        "mentors": [
            {
                "confidence": np.mean([row["a"][m] for row in rows]),
                "sees": 100 * np.mean([row["a"][m] > 0 for row in rows]),
                "active": np.mean([row["on"][m] for row in rows]),
                "weight": _mean([row["w"][m] for row in rows if row["on"][m]]),
                "gap": _mean([row["gap"][m] for row in rows if row["on"][m]]),
                "temperature": _mean([1 + tau * row["gap"][m] for row in rows if row["on"][m]]),
                "active_by_joint": [
                    _mean([row["on"][m] for row in rows if row["j"] == j]) for j in range(17)
                ],
            }
            for m in range(len(NAMES))
        ],
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


@pytest.mark.parametrize(("views", "tau"), [(None, None), (2, 4.0)])
def test_it_is_what_a_plain_loop_finds(
    store: TargetStore, images: ImageDataset, student: Path, views: Any, tau: float | None
) -> None:
    found = inspect(store, student, views=views, tau=tau)
    assert found["tau"] == (tau or 1.5)
    assert found["views"] == [0, 1][: views or 1]
    expected = plain_loop(store, images, found["views"], found["tau"])
    rows = expected["rows"]
    assert found["joints"]["labelled"] == [sum(r["j"] == j for r in rows) for j in range(17)]
    assert found["student"]["confidence"] == pytest.approx(
        np.mean([r["s"] for r in rows]), rel=1e-3
    )
    assert 80 < found["student"]["sees"] < 100
    assert found["untaught"] == pytest.approx(expected["untaught"])
    for ours, theirs, name in zip(found["mentors"], expected["mentors"], NAMES, strict=True):
        assert ours["name"] == name
        for key, value in theirs.items():
            for one, other in zip(_listed(ours[key]), _listed(value), strict=True):
                assert (one is None) == (other is None)
                assert one is None or one == pytest.approx(other, rel=1e-3), (name, key)
    json.dumps(found)


def test_a_mentor_wrong_on_one_joint_teaches_all_others(store: TargetStore, student: Path) -> None:
    found = inspect(store, student)
    mentors = {mentor["name"]: mentor for mentor in found["mentors"]}
    labelled = found["joints"]["labelled"]
    assert labelled[WRIST] > 0
    shares = mentors["nowrist"]["active_by_joint"]
    assert [share for j, share in enumerate(shares) if j != WRIST and labelled[j]] == [
        share
        for j, share in enumerate(mentors["truth"]["active_by_joint"])
        if j != WRIST and labelled[j]
    ]
    assert shares[WRIST] < 0.5 < mentors["truth"]["active_by_joint"][WRIST] == 1
    assert mentors["faint"]["sees"] == 0
    assert found["never"] == ["faint"]


def test_the_command_shows_joints_by_mentors(store: TargetStore, student: Path) -> None:
    args = ["inspect", str(store.root), "--against", str(student), "--mentors", "truth,nowrist"]
    args += ["--network", CENTRED]
    args += ["--data-dir", str(store.root.parent / "data")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    (head,) = [line.split() for line in lines if line.startswith("joint ")]
    assert head == ["joint", "labelled", "student", "truth", "nowrist", "nobody"]
    (wrist,) = [line for line in lines if line.startswith("left wrist")]
    found = inspect(store, student, mentors=["truth", "nowrist"])
    assert wrist.split()[4:6] == [
        f"{mentor['active_by_joint'][WRIST]:.0%}" for mentor in found["mentors"]
    ]
    assert "ClassroomKD per joint, tau 1.5" in result.output
    assert "top-1" not in result.output


def test_students_that_are_not_of_this_store(store: TargetStore, tmp_path: Path) -> None:
    few = tmp_path / "few.safetensors"
    save_weights(few, build_network("mbpose", 16, seed=0), {})
    with pytest.raises(CheckpointError):
        inspect(store, few, network="mbpose")
    classes = tmp_path / "resnet8.safetensors"
    save_weights(classes, build_network("r8", 17, seed=0), {})
    with pytest.raises(UsageError, match="one map a joint"):
        inspect(store, classes, network=None)
    broken = tmp_path / "lightpose-mobilenetv2.safetensors"
    with torch.no_grad():
        network = build_network("mbpose", 17, seed=0)
        for parameter in network.parameters():
            parameter.mul_(1e30)
    save_weights(broken, network, {})
    with pytest.raises(CheckpointError, match="NaN or infinite heatmaps"):
        inspect(store, broken, network=None)
    with pytest.raises(UsageError, match="tau"):
        inspect(store, classes, tau=-1.0)
