"""Stopped or killed at any step, damaged in any byte: runs and stores of people go on the same."""

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.encode import HEATMAPS, KEYPOINTS
from kdcache.errors import DamagedTargets, Stopped
from kdcache.mentors import load_mentor
from kdcache.precompute import PrecomputeJob
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.train.run_folder import RunFolder
from kdcache.verification import verify
from tests.damaging import flip
from tests.pose.conftest import MENTORS, RECIPE, VIEWS, Run, precomputed, small_blocks
from tests.test_precompute import snapshot, stop_after
from tests.train.comparing import same_run
from tests.train.killing import Death, KillReport, arm, kill_at_random_steps, live

STEPS = 6  # two epochs of three


def test_stopped_at_steps_it_ends_as_if_it_had_never_been(tmp_path: Path, train: Run) -> None:
    list(train("undisturbed"))
    for polls in (0, 1, 0, 0):  # steps 1, 3, 4 and 5
        with pytest.raises(Stopped, match="Run the same command again"):
            list(train("stopped", should_stop=stop_after(polls)))
    state = RunFolder(tmp_path / "stopped").load_checkpoint()
    assert isinstance(state, dict)
    assert {step for step in state["steps"] if step} == {5}
    assert all(moment is not None for moment in state["second_moment"])
    list(train("stopped"))
    assert same_run(tmp_path / "stopped", tmp_path / "undisturbed")


def kill_options(sticks: Path, store: TargetStore) -> dict[str, Any]:
    return {
        "student": "mbpose",
        "dataset": "coco-keypoints",
        "data_dir": str(sticks),
        "store": str(store.root),
        "epochs": 2,
        "batch_size": 8,
        "eval_every": 2,
        "device": "cpu",
    }


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize(
    ("every", "kills"),
    [(1, 3), pytest.param(None, 12, marks=pytest.mark.slow)],
)
def test_killed_it_ends_as_if_it_had_never_been(
    tmp_path: Path, sticks: Path, small_store: TargetStore, every: int | None, kills: int
) -> None:
    options = {**kill_options(sticks, small_store), "checkpoint_every": every}
    report = kill_at_random_steps(options, tmp_path, steps=STEPS, kills=kills, seed=2)
    assert report == KillReport(kills=kills, runs_equal=1, runs_different=0)


@pytest.mark.parametrize("polls", [1, 3])
def test_a_stopped_precompute_goes_on(
    tmp_path: Path,
    people: ImageDataset,
    checkpoints: dict[str, str],
    small_store: TargetStore,
    polls: int,
) -> None:
    mentors = [load_mentor(name, people, checkpoints[name]) for name in MENTORS]
    options: dict[str, Any] = {"store": tmp_path / "S", "recipe": RECIPE, "device": "cpu"}
    with small_blocks():
        job = PrecomputeJob(people, mentors, views=VIEWS, **options)
        assert job.run(should_stop=stop_after(polls)).stopped
        assert verify_store(tmp_path / "S").ok
        again = PrecomputeJob(people, mentors, views=VIEWS, **options)
    assert sum(again.plan.reused.values()) == 4 * polls  # two mentors, two kinds
    assert not again.run().stopped
    assert snapshot(tmp_path / "S") == snapshot(small_store.root)


def _precompute(options: dict[str, Any], death: Death | None) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    if death is not None:
        arm(death)
    people = kdcache.open_dataset("coco-keypoints", data_dir=options["data_dir"])
    precomputed(Path(options["store"]), people, options["checkpoints"])


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize(
    "writes",
    [(9, 14), pytest.param((2, 6, 10, 12, 13, 15, 17, 18), marks=pytest.mark.slow)],
    ids=["twice", "often"],
)
def test_a_killed_precompute_goes_on(
    tmp_path: Path,
    sticks: Path,
    checkpoints: dict[str, str],
    small_store: TargetStore,
    writes: tuple[int, ...],
) -> None:
    root = tmp_path / "S"
    options = {"data_dir": str(sticks), "store": str(root), "checkpoints": checkpoints}
    ends = [
        live(_precompute, options, Death(moment="before rename", number=number))
        for number in writes
    ]
    assert ends[:2] == [-9, -9]
    assert set(ends) <= {-9, 0}  # later ones may have fewer writes left than they are to die at
    assert live(_precompute, options, None) == 0
    assert snapshot(root) == snapshot(small_store.root)
    assert verify_store(root).ok


@pytest.mark.parametrize("kind", [HEATMAPS.name, KEYPOINTS.name])
def test_a_flipped_bit_is_found_told_and_healed(
    copied: TargetStore,
    sticks: Path,
    people: ImageDataset,
    checkpoints: dict[str, str],
    train: Run,
    kind: str,
) -> None:
    before = snapshot(copied.root)
    stored = copied.mentor("lp18", kind)
    flip(stored.array.chunk(1, 1))
    found = verify(copied.root, data_dir=sticks)
    assert [(d.mentor, d.kind, d.view, d.block) for d in found.damaged] == [("lp18", kind, 1, 1)]
    assert found.healing is not None
    command = shlex.split(found.healing)
    assert command[:3] == ["kdcache", "precompute", "--store"]
    assert command[command.index("--mentors") + 1] == "lp18"
    assert command[command.index("--encoder") + 1] == "heatmap8"
    if kind == HEATMAPS.name:
        with pytest.raises(DamagedTargets, match=r"mentor 'lp18', view 1, block 1") as told:
            list(train("run", store=str(copied.root)))
        assert "kdcache precompute --store" in str(told.value)
    else:  # no student reads keypoints
        list(train("run", store=str(copied.root)))
    mentor = load_mentor("lp18", people, checkpoints["lp18"])
    job = PrecomputeJob(people, [mentor], store=copied.root, device="cpu")
    assert sum(job.plan.new.values()) == 1
    job.run()
    assert snapshot(copied.root) == before
    assert verify(copied.root, data_dir=sticks).ok
    if kind == HEATMAPS.name:
        list(train("run", store=str(copied.root)))


def test_rows_of_both_kinds_are_computed_again(
    copied: TargetStore, sticks: Path, checkpoints: dict[str, str]
) -> None:
    given: dict[str, str | Path] = dict(checkpoints)
    found = verify(copied.root, data_dir=sticks, recompute=4, checkpoints=given, device="cpu")
    assert (found.ok, found.recomputed, found.not_checked) == (True, 4 * 2 * 2, ())


def test_rows_of_another_mentor_are_told(
    copied: TargetStore, sticks: Path, people: ImageDataset, checkpoints: dict[str, str]
) -> None:
    """Checksums hold; heatmaps are those of a network with one swapped pair of joints."""
    root = copied.root.parent / "swapped"
    mentor = load_mentor("mbpose", people, checkpoints["mbpose"])
    with torch.no_grad():
        for name in ("weight", "bias"):
            weights = mentor.network.get_parameter(f"final_layer.{name}")
            weights[[13, 14]] = weights[[14, 13]]
    with small_blocks():
        kdcache.precompute_targets(
            people, [mentor], store=root, recipe=RECIPE, views=1, device="cpu"
        )
    assert verify_store(root).ok
    given: dict[str, str | Path] = {"mbpose": checkpoints["mbpose"]}
    found = verify(root, data_dir=sticks, recompute=2, checkpoints=given, device="cpu")
    assert {damage.kind for damage in found.damaged} == {HEATMAPS.name, KEYPOINTS.name}
    assert all("joint 13" in d.reason or "joint 14" in d.reason for d in found.damaged)
    assert all("the mentor says" in damage.reason for damage in found.damaged)


def test_what_is_read_back_is_within_the_encoders_bound(
    exact_store: TargetStore, small_store: TargetStore
) -> None:
    index = exact_store.index_N
    encoder = small_store.mentor("lp18").encoder
    for view in range(VIEWS):
        exact = exact_store.targets(view, index)
        assert (np.abs(exact - small_store.targets(view, index)) <= encoder.bound(exact)).all()
        keypoints = exact_store.targets(view, index, kind="keypoints")
        np.testing.assert_array_equal(keypoints, small_store.targets(view, index, kind="keypoints"))
    assert open_store(small_store.root).manifest == small_store.manifest
