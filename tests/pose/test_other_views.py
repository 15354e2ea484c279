"""Views of other sizes: of mentors that were trained on them, of students and files that say."""

from pathlib import Path
from typing import Any

import pytest

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.datasets import ImageDataset
from kdcache.errors import CheckpointError, UsageError
from kdcache.store import TargetStore
from tests.pose.conftest import Run


def test_a_mentor_of_other_views_is_told(tmp_path: Path, people: ImageDataset) -> None:
    network = kdcache.build_network("lp18", people.num_classes, seed=0)
    stated = {"height": "64", "width": "64"}
    save_weights(tmp_path / "lp18.safetensors", network, stated)
    mentor = kdcache.load_mentor("lp18", people, tmp_path / "lp18.safetensors")
    for sides, warnings in (({"height": 64, "width": 64}, 0), ({"height": 128, "width": 96}, 1)):
        job = kdcache.PrecomputeJob(
            people, [mentor], store=tmp_path / "S", views=1, recipe_options=sides, device="cpu"
        )
        assert len(job.warnings) == warnings
    assert "trained on views of 64 x 64, these are 128 x 96" in job.warnings[0]


@pytest.mark.parametrize("name", ["", "checkpoint.pt", "student.safetensors"])
def test_a_run_is_evaluated_on_views_of_its_own_size(
    name: str, tmp_path: Path, train: Run, sticks: Path, exact_store: TargetStore
) -> None:
    records = list(train("run"))
    recipe = exact_store.manifest.recipe
    found = kdcache.evaluate_checkpoint(tmp_path / "run" / name, data_dir=str(sticks), device="cpu")
    assert (found["height"], found["width"]) == (recipe["height"], recipe["width"])
    assert found["ap"] == records[-1]["test_ap"]


def test_a_size_that_a_file_states_wrongly_is_told_and_another_can_be_given(
    tmp_path: Path, sticks: Path, people: ImageDataset
) -> None:
    file = tmp_path / "lp18.safetensors"
    network = kdcache.build_network("lp18", people.num_classes, seed=0)
    save_weights(file, network, {"height": "x", "architecture": "lp18"})
    given: dict[str, Any] = {
        "dataset": "coco-keypoints",
        "data_dir": str(sticks),
        "device": "cpu",
    }
    with pytest.raises(CheckpointError, match=r"states the height .*--recipe-option height=256"):
        kdcache.evaluate_checkpoint(file, **given)
    sides = {"height": 64, "width": 32}
    found = kdcache.evaluate_checkpoint(file, recipe_options=sides, **given)
    assert (found["height"], found["width"]) == (64, 32)
    with pytest.raises(UsageError, match="size of people's views"):
        kdcache.evaluate_checkpoint(file, recipe_options={"flip": True}, **given)
