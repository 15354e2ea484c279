"""What `train-student` says of an idle filter or an unsupervised student: once, if it has one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kdcache
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor
from kdcache.store import TargetStore

Train = Callable[..., Result]


@pytest.fixture
def train(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> Train:
    store: TargetStore = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "S", views=2
    )

    def run(*options: str) -> Result:
        command = [
            "train-student", "--student", "r8", "--store", str(store.root), "--epochs", "2",
            "--batch-size", "32", "--eval-every", "2", "--out", str(tmp_path / "run"), *options,
        ]  # fmt: skip
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return result

    return run


def test_an_idle_filter_is_told_once(train: Train) -> None:
    told = train("--gate-margin", "-1").output  # every mentor is within 1 of the student
    assert told.count("warning: filter idle in epoch 1: these mentors taught nearly every") == 1
    assert "filter idle in epoch 2" not in told
    assert "r14 100.0%, r8 100.0%" in told


def test_an_unsupervised_student_is_told(train: Train) -> None:
    told = train("--gate-margin", "1").output
    assert told.count("warning: student unsupervised in epoch 1: no mentor taught 100.0%") == 1
    assert "filter idle" not in told


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "average"),
        ("--method", "soft"),
        ("--method", "kd", "--mentors", "r8"),
        ("--method", "ce"),
        ("--gate", "off"),
        ("--gate", "soft"),
    ],
    ids=" ".join,
)
def test_without_a_filter_there_is_nothing_to_tell(train: Train, options: tuple[str, ...]) -> None:
    told = train(*options).output
    assert "filter idle" not in told
    assert "unsupervised" not in told


def test_records_by_class_where_asked(train: Train, tmp_path: Path) -> None:
    train("--per-class")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        by_class = record["classroom"]["per_class"]
        assert len(by_class["samples"]) == 10
        for key in ("active", "weight"):
            assert {name: len(by_class[key][name]) for name in by_class[key]} == {
                "r14": 10,
                "r8": 10,
            }
