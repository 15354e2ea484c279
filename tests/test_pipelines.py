"""Pipelines at smoke size: from nothing to a table, again, and after a kill."""

import csv
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import kdcache
from kdcache.cli import main as kdcache_cli
from kdcache.datasets import ImageDataset
from kdcache.errors import Stopped
from kdcache.mentors import Mentor
from kdcache.train.run_folder import RunFolder
from pipelines import amtml, cached_equals_online, cifar100_classroom, coco_pose
from pipelines.runs import Run, arms_table, command_of, summarise, train_run
from pipelines.sizes import DIGITS, choose_size
from tests.datasets.pose_files import small_poses
from tests.test_configs import config_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def digits_store(digits: ImageDataset, digits_mentors: list[Mentor], tmp_path: Path) -> Path:
    """Two views of 100 digits by two mentors."""
    return kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "s", views=2).root


@pytest.fixture
def without_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is bundled."""
    monkeypatch.delenv("KDCACHE_DATA", raising=False)


def test_cached_equals_online(tmp_path: Path) -> None:
    command = ["--smoke", "--out", str(tmp_path / "run"), "--seed", "3"]
    result = CliRunner().invoke(cached_equals_online.main, command)
    assert result.exit_code == 0, result.output
    assert "losses of 2 epochs equal bit for bit: True" in result.output
    assert "final weights equal bit for bit: True" in result.output
    assert "every float16 row within the recorded bound: True" in result.output
    again = CliRunner().invoke(cached_equals_online.main, command)
    assert again.exit_code == 0
    assert "epoch" not in again.output.replace("epochs", "")  # everything was reused


@pytest.mark.usefixtures("without_real_data")
def test_the_classroom_story_on_digits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--smoke", "--out", str(out)]
    result = CliRunner().invoke(cifar100_classroom.main, command)
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    arms = list(cifar100_classroom.METHODS_COMPARED)
    assert [summary["arm"] for summary in results["arms"]] == arms
    assert all(summary["n"] == 2 for summary in results["arms"])
    assert results["store"]["complete"]
    assert results["store"]["bytes"] == 2 * 2 * 200 * 10 * 2  # views, mentors, samples, C, float16
    with open(out / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * len(arms)
    for line, run in zip(lines, results["runs"], strict=True):
        records = (Path(run["folder"]) / "metrics.jsonl").read_text().splitlines()
        assert run["last"] == json.loads(records[-1])["test_top1"] == float(line["last"])
    assert (out / "results.md").read_text() in result.output

    again = CliRunner().invoke(cifar100_classroom.main, command)
    assert again.exit_code == 0, again.output
    assert "epoch 1" not in again.output  # no mentor, view or student was made twice
    assert again.output.endswith(result.output.partition("# ")[2])

    # A command of the table is that run: it finds it finished.
    words = shlex.split(results["runs"][-1]["command"])
    shown = CliRunner().invoke(kdcache_cli, words[1:])
    assert shown.exit_code == 0, shown.output
    assert "nothing is left to do" in shown.output


@pytest.mark.usefixtures("without_real_data")
def test_the_classroom_story_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Killed in a student's first epochs, run as a file, from another folder."""
    out = tmp_path / "out"
    script = str(ROOT / "pipelines" / "cifar100_classroom.py")
    words = ["--smoke", "--out", str(out), "--methods", "average", "--seeds", "0"]
    command = [sys.executable, script, *words, "--epochs", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("average, seed 0: epoch 3 "):
                process.kill()
                break
        else:
            pytest.fail("it ended before it was killed")
    records = out / "r8-average-s0" / "metrics.jsonl"
    before = records.read_text().splitlines()
    assert 3 <= len(before) < 20
    result = CliRunner().invoke(cifar100_classroom.main, command[2:])
    assert result.exit_code == 0, result.output
    assert records.read_text().splitlines()[: len(before) - 1] == before[:-1]
    assert "epoch 20 of 20" in result.output
    assert "epoch 2 of 20" not in result.output
    assert "mentor r14: has a checkpoint" in result.output


@pytest.mark.usefixtures("without_real_data")
def test_the_amtml_story_on_digits_then_with_hints(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--smoke", "--out", str(out), "--seeds", "3"]
    first = CliRunner().invoke(amtml.main, command)
    assert first.exit_code == 0, first.output
    results = json.loads((out / "results.json").read_text())
    assert [run["arm"] for run in results["runs"]] == list(amtml.ARMS)
    assert all(f"{arm}, seed 3: epoch 2 of 2" in first.output for arm in amtml.ARMS)
    logits_bytes = results["store"]["bytes"]
    assert logits_bytes == 2 * 2 * 200 * 10 * 2  # views, mentors, samples, C, float16

    second = CliRunner().invoke(amtml.main, [*command, "--hints"])
    assert second.exit_code == 0, second.output
    results = json.loads((out / "results.json").read_text())
    assert [run["arm"] for run in results["runs"]] == [*amtml.ARMS, *amtml.HINT_ARMS]
    features_bytes = 2 * 2 * 200 * 64 * 2  # both mentors' classifiers are given 64 numbers
    assert results["store"]["bytes"] == logits_bytes + features_bytes
    for arm in amtml.ARMS:
        assert f"{arm}, seed 3: epoch" not in second.output  # made by the first run
    for arm in amtml.HINT_ARMS:
        assert f"{arm}, seed 3: epoch 2 of 2" in second.output


@pytest.mark.parametrize(("dataset", "measure"), [("coco-keypoints", "ap"), ("mpii", "pckh")])
def test_the_pose_story_on_a_few_people(
    dataset: str, measure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kdcache_home: Path
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(small_poses(tmp_path / "data")))
    out = tmp_path / "out"
    command = [
        "--smoke", "--dataset", dataset, "--samples", "16", "--mentors", "lp18", "--epochs", "1",
        "--mentor-epochs", "1", "--methods", "ce,kd,classroom-oks,classroom", "--seeds", "3",
        "--views", "1", "--recipe-option", "width=32", "--out", str(out),
    ]  # fmt: skip
    result = CliRunner().invoke(coco_pose.main, command)
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    arms = command[command.index("--methods") + 1].split(",")
    assert [summary["arm"] for summary in results["arms"]] == arms
    assert results["store"]["complete"]
    assert results["store"]["recipe"]["height"] == 64
    assert results["store"]["recipe"]["width"] == 32
    for run in results["runs"]:
        assert run["last"] == RunFolder(Path(run["folder"])).records()[-1][f"test_{measure}"]
    text = (out / "results.md").read_text()
    assert text in result.output
    assert "mall-data numbers" in text
    assert not (kdcache_home / "mentors").exists()  # small ones do not become anybody's

    again = CliRunner().invoke(coco_pose.main, command)
    assert again.exit_code == 0, again.output
    assert "epoch 1" not in again.output  # no mentor, view or student was made twice
    assert again.output.endswith(text + "\n")

    words = shlex.split(results["runs"][-1]["command"])
    shown = CliRunner().invoke(kdcache_cli, words[1:])
    assert shown.exit_code == 0, shown.output
    assert "nothing is left to do" in shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "dkd"], "'dkd' takes logits, and a pose network gives heatmaps"),
        (["--methods", "clasroom"], "Did you mean classroom"),
        (["--mentors", "r8"], "one map a joint"),
        (["--dataset", "digits"], "has classes, no people"),
        (["--recipe-option", "height=50"], "multiples of 32"),
    ],
)
def test_a_wrong_option_of_the_pose_story_is_told(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(small_poses(tmp_path / "data")))
    command = ["--smoke", "--samples", "16", "--out", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(coco_pose.main, command)
    assert result.exit_code == 2, result.output
    assert message in result.output


@pytest.mark.slow
def test_the_pose_smoke_on_real_people(real_data: Path, tmp_path: Path) -> None:
    if not (real_data / "coco").is_dir():
        pytest.skip("$KDCACHE_DATA/coco is not there")
    command = ["--smoke", "--seeds", "0", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(coco_pose.main, command)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["store"]["dataset"]["num_samples"] == 48
    for run in results["runs"]:
        first, *_, last = RunFolder(Path(run["folder"])).records()
        assert last["train_loss"] < first["train_loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(
    ("story", "words"),
    [
        (cifar100_classroom.main, ["--methods", "ce,classroom-batch"]),
        (amtml.main, ["--hints", "--epochs", "1"]),
    ],
    ids=["classroom", "amtml"],
)
def test_a_smoke_on_real_data(story: click.Command, words: list[str], tmp_path: Path) -> None:
    command = ["--smoke", "--seeds", "0", *words, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(story, command)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["store"]["dataset"]["name"] == "cifar100"
    accuracies = {mentor["name"]: mentor["accuracy"] for mentor in results["store"]["mentors"]}
    assert set(accuracies) == {"r32", "r20"}
    assert min(accuracies.values()) > 85  # trained on these images
    assert all(0 <= run["last"] <= run["best"] <= 100 for run in results["runs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "averag"], "Did you mean average"),
        (["--mentors", "r9"], "unknown network .r9."),
        (["--mentors", "r8"], "ca-mkd: at least 2 mentors"),
        (["--seeds", "0,0"], "different numbers"),
        (["--seeds", "-1"], "from 0 up"),
        (["--epochs", "0"], "x>=1"),
    ],
)
@pytest.mark.usefixtures("without_real_data")
def test_a_wrong_option_is_told_before_any_work(
    words: list[str], message: str, tmp_path: Path
) -> None:
    command = ["--smoke", "--out", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(cifar100_classroom.main, command)
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output
    assert not (tmp_path / "out").exists()


def test_a_smoke_takes_the_real_data_where_it_is(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"smoke": True, "samples": 7, "student": None}
    size = choose_size(cifar100_classroom.SMOKE, given)
    assert size == replace(cifar100_classroom.SMOKE, samples=7)
    monkeypatch.delenv("KDCACHE_DATA")
    assert choose_size(cifar100_classroom.SMOKE, given) == replace(DIGITS, samples=7)
    given["smoke"] = False  # nothing else is taken for the real thing
    assert choose_size(cifar100_classroom.FULL, given).dataset == "cifar100"


def test_a_mentor_named_twice_teaches_once() -> None:
    given = {"smoke": False, "mentors": ("resnet110", "r8", "r110")}
    assert choose_size(cifar100_classroom.FULL, given).mentors == ("r110", "r8")


NAMES = st.sampled_from(["r8", "r14", "r110"])


@given(
    st.builds(
        kdcache.TrainConfig,
        student=NAMES,
        dataset=st.sampled_from([None, "digits", "coco-keypoints", "mpii"]),
        samples=st.none() | st.integers(1, 100),
        store=st.sampled_from([None, "a folder/it's a store"]),
        mentors=st.none() | st.lists(NAMES, min_size=1, max_size=2).map(tuple),
        method=st.sampled_from(["classroom", "average"]),
        switches=st.sampled_from([{}, {"temperature": "fixed"}, {"tau": 4.5, "gate": "off"}]),
        targets=st.sampled_from(["cache", "online"]),
        checkpoints=st.sampled_from([{}, {"r8": "/tmp/a b.pt"}]),
        views=st.none() | st.integers(1, 9) | st.lists(st.integers(0, 9), min_size=2).map(tuple),
        recipe_options=st.sampled_from([{}, {"height": 64, "half_body": 0.3, "flip": False}]),
        epochs=st.integers(1, 500) | st.sampled_from([210, 240]),
        batch_size=st.sampled_from([32, 64]),
        optimizer=st.sampled_from(["sgd", "adam"]),
        schedule=st.sampled_from(["released", "steps-210", "steps-140"]),
        weight_decay=st.sampled_from([0.0, 5e-4]),
        decoder=st.sampled_from(["quarter", "dark"]),
        flip_test=st.booleans(),
        lr=st.floats(1e-6, 1.0),
        seed=st.integers(0, 9),
        channels_last=st.booleans(),
        out=st.sampled_from([None, "runs/a b"]),
    )
)
def test_the_command_of_a_run_says_that_run(config: kdcache.TrainConfig) -> None:
    words = shlex.split(command_of(config))
    assert words[:2] == ["kdcache", "train-student"]
    assert config_of(*words[2:]) == config


def run_of(arm: str, seed: int, last: float, best: float) -> Run:
    return Run(arm=arm, seed=seed, last=last, best=best, minutes=1.5, folder="", command="")


def test_arms_are_summarised_in_their_order() -> None:
    runs = [
        run_of("ce", 0, 60.0, 61.0),
        run_of("average", 0, 70.0, 70.0),
        run_of("ce", 1, 62.0, 65.0),
    ]
    ce, average = summarise(runs)
    assert (ce.arm, ce.n, ce.last, ce.best, ce.minutes) == ("ce", 2, 61.0, 63.0, 1.5)
    assert ce.standard_error == pytest.approx(1.0)
    assert (average.n, average.standard_error) == (1, None)
    table = arms_table([ce, average]).splitlines()
    assert [cell.strip() for cell in table[3].split("|")[1:-1]] == [
        "average", "70.00", "", "1", "70.00", "1.5",
    ]  # fmt: skip


def test_a_run_that_is_stopped_goes_on(digits_store: Path, tmp_path: Path) -> None:
    config = kdcache.TrainConfig(
        student="r8", store=str(digits_store), epochs=2, batch_size=20, out=str(tmp_path / "run")
    )
    polls = iter(range(7))
    with pytest.raises(Stopped):
        train_run("classroom", config, lambda: next(polls, None) is None)
    run = train_run("classroom", config, lambda: False)
    whole = kdcache.TrainConfig(**{**vars(config), "out": str(tmp_path / "whole")})
    unbroken = train_run("classroom", whole, lambda: False)
    assert (run.last, run.best) == (unbroken.last, unbroken.best)
    assert run.best >= run.last
    assert run.folder == str(tmp_path / "run")
