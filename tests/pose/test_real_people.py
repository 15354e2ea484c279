"""Real people, end to end through the command line; a student that learns a few by heart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import kdcache
from kdcache.checkpoints import read_state_dict
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.models import build_network
from kdcache.store import verify_store
from kdcache.train.pose_accuracy import evaluate_pose
from tests.train.comparing import same_weights, timeless

Opens = Callable[[str, str], ImageDataset]
FEW = 16
HEIGHT, WIDTH = 128, 96


def kdcache_(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def pipeline(tmp_path: Path, dataset: str, sides: tuple[int, int], data: Any = None) -> Any:
    """Mentor, store, student and its evaluation as JSON; two tiny epochs each."""
    place = () if data is None else ("--data-dir", data)
    common = ("--dataset", dataset, *place, "--device", "cpu")
    small = ("--recipe-option", f"height={sides[0]}", "--recipe-option", f"width={sides[1]}")
    loop = ("--epochs", 2, "--eval-every", 2, "--batch-size", 4)
    trained = kdcache_("train-mentor", "mbpose", *common, *small, *loop)
    name = "PCKh@0.5" if dataset == "mpii" else "AP"
    assert f"last epoch: test {name}" in trained
    store = tmp_path / "S"
    output = kdcache_(
        "precompute", "--mentors", "mbpose", *common, *small, "--views", 2, "--store", store
    )
    assert "recipe pose-affine" in output
    assert "ran mbpose over" in output
    inspected = kdcache_("inspect", store)
    joints = 16 if dataset == "mpii" else 17
    assert f"{joints} joints" in inspected
    assert f"height {sides[0]}, width {sides[1]}" in inspected
    assert "views        2, complete" in inspected
    assert "is sound" in kdcache_("verify", store, "--recompute", 2, *place, "--device", "cpu")
    student = ("--student", "mbpose", "--store", store, "--out", tmp_path / "run")
    assert f"test {name}" in kdcache_("train-student", *common, *student, *loop)
    (tmp_path / "run" / "metrics.jsonl").read_text()
    records = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["view"] for record in records] == [0, 1]
    assert all(record["task_loss"] > 0 for record in records)
    words = ("evaluate", tmp_path / "run", *place, "--device", "cpu", "--json")
    found = json.loads(kdcache_(*words))
    again = json.loads(kdcache_(*words, "--decoder", "dark", "--flip-test"))
    for each in (found, again):
        assert (each["height"], each["width"]) == sides
    return found


def test_cocos_format_through_the_command_line(tmp_path: Path, sticks: Path) -> None:
    found = pipeline(tmp_path, "coco-keypoints", (64, 64), sticks)
    assert found["samples"] == 8
    assert 0 <= found["ap"] <= found["ap50"] <= 100


def test_mpii_through_the_command_line(tmp_path: Path, real_people: Opens) -> None:
    assert len(real_people("mpii", "train")) == 5
    found = pipeline(tmp_path, "mpii", (64, 64))
    assert found["samples"] == 5
    assert 0 <= found["pckh"] <= 100


@pytest.mark.slow
def test_coco_through_the_command_line(tmp_path: Path, real_people: Opens) -> None:
    people = real_people("coco-keypoints", "test")
    found = pipeline(tmp_path, "coco-keypoints", (HEIGHT, WIDTH))
    assert found["samples"] == len(people)


@pytest.mark.slow
def test_a_student_learns_a_few_people_by_heart(tmp_path: Path, real_people: Opens) -> None:
    """Mentor and student, both lp18, on 16 people as they are: their own AP, not a test's."""
    people = real_people("coco-keypoints", "train").select(FEW)
    common: dict[str, Any] = {
        "dataset": "coco-keypoints",
        "samples": FEW,
        "batch_size": 8,
        "schedule": "cosine",
        "eval_every": 100,
        "device": "cpu",
    }
    plain: dict[str, Any] = {
        "recipe": "pose-crop",
        "recipe_options": {"height": HEIGHT, "width": WIDTH},
    }
    losses = [r["train_loss"] for r in kdcache.train_mentor("lp18", epochs=50, **common, **plain)]
    assert losses[-1] < 0.1 * losses[0]
    mentor = kdcache.load_mentor("lp18", people)
    assert ap(mentor.network, people) > 50
    store = kdcache.precompute_targets(
        people, [mentor], store=tmp_path / "S", encoder="float32", device="cpu", **plain
    )
    assert verify_store(store.root).ok
    runs = {}
    for targets in ("cache", "online"):
        out = tmp_path / targets
        given: dict[str, Any] = {
            "targets": targets,
            "store": str(store.root),
            "out": str(out),
            "seed": 1,
        }
        runs[targets] = list(kdcache.train_student(student="lp18", epochs=40, **common, **given))
    assert timeless(runs["cache"]) == timeless(runs["online"])
    assert same_weights(tmp_path / "cache", tmp_path / "online")
    records = runs["cache"]
    assert records[-1]["task_loss"] < 0.2 * records[0]["task_loss"]
    taught = np.array([r["mentor_loss"] for r in records])
    assert (taught[:5] > 0).all()
    student = build_network("lp18", 17)
    student.load_state_dict(read_state_dict(tmp_path / "cache" / "student.safetensors"))
    assert ap(student, people) > 50


def ap(network: torch.nn.Module, people: ImageDataset) -> float:
    found = evaluate_pose(
        network, people, people.preprocessing, torch.device("cpu"), height=HEIGHT, width=WIDTH
    )
    assert found["ap"] is not None
    return found["ap"]
