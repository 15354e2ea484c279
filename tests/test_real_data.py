"""The promises on real CIFAR-100 with real trained mentors."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from pipelines import cached_equals_online

PUBLISHED = {"r20": 68.83, "r32": 70.16, "r44": 71.63, "r56": 72.63}


def test_from_the_store_is_online_on_real_images(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own story on 200 images; the test split too is cut to 200, to save time."""
    size = cached_equals_online.Size(
        dataset="cifar100", mentors=("r32", "r20"), student="r8", samples=200, views=2, epochs=2
    )
    monkeypatch.setattr(cached_equals_online, "FULL", size)
    whole = kdcache.open_dataset
    monkeypatch.setattr(
        "kdcache.train.student.open_dataset",
        lambda name, split="train", **options: whole(
            name, split, samples=200 if split == "test" else None, **options
        ),
    )
    done = CliRunner().invoke(cached_equals_online.main, ["--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "losses of 2 epochs equal bit for bit: True" in done.output
    assert "final weights equal bit for bit: True" in done.output
    assert "every float16 row within the recorded bound: True" in done.output


@pytest.mark.slow
def test_the_mentors_reproduce_their_published_accuracy(real_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "S"
    command = (
        f"precompute --mentors {','.join(PUBLISHED)} --dataset cifar100 --split test "
        f"--recipe none --views 1 --encoder float32 --store {store}"
    )
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0, done.output
    found = json.loads(CliRunner().invoke(main, ["inspect", str(store), "--json"]).output)
    accuracy = {mentor["name"]: mentor["accuracy"] for mentor in found["mentors"]}
    assert accuracy == pytest.approx(PUBLISHED, abs=0.02)
    assert found["complete"]


@pytest.mark.slow
def test_from_the_store_is_online_at_full_size(real_data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cached_equals_online.main, ["--out", str(tmp_path), "--seed", "7"])
    assert done.exit_code == 0, done.output
    assert "losses of 4 epochs equal bit for bit: True" in done.output
    assert "final weights equal bit for bit: True" in done.output


@pytest.mark.slow
def test_a_store_that_moves_says_the_same(real_data: Path, tmp_path: Path) -> None:
    """A teammate copies the folder and trains from it: no mentor, no checkpoint, no home."""
    dataset = kdcache.open_dataset("cifar100", samples=300)
    kdcache.precompute_targets(dataset, ["r20", "r32"], store=tmp_path / "mine", views=2)
    shutil.copytree(tmp_path / "mine", tmp_path / "theirs")
    finals = []
    for name in ("mine", "theirs"):
        records = list(
            kdcache.train_student(
                student="r8", samples=300, epochs=2, store=str(tmp_path / name),
                out=str(tmp_path / f"run-{name}"), eval_every=2,
            )
        )  # fmt: skip
        finals.append(records[-1]["train_loss"])
    assert finals[0] == finals[1]
