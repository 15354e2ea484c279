"""The shipped configs: headed, valid, consistent with the commands they show, and trainable."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.classroom import build_method
from kdcache.cli import main
from kdcache.cli.method_switches import take_switches
from kdcache.config import read_toml
from kdcache.models import build_network, long_name
from kdcache.tasks import POSE
from kdcache.train import with_defaults
from kdcache.train.run_folder import RunFolder
from kdcache.train.task_defaults import task_of
from tests.datasets.pose_files import small_poses

ROOT = Path(__file__).parents[1]
DATASET = "tests.large_digits:training_and_test"
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def parse(words: list[str]) -> dict[str, Any]:
    """What `kdcache` reads in a command; nothing is run. click's errors are the test's."""
    command = main.commands[words[0]]
    assert isinstance(command, click.Command)
    return dict(command.make_context(words[0], words[1:]).params)


def config_of(*words: str) -> kdcache.TrainConfig:
    params = parse(["train-student", *words])
    assert not params.pop("resume")
    assert params.pop("seeds") is None
    files = dict(item.split("=", 1) for item in params.pop("checkpoint"))
    given = {"switches": take_switches(params), "checkpoints": files, **params}
    store = given.pop("store")  # which need not be there to read a command
    return kdcache.TrainConfig(**with_defaults(given), store=store)


def commands_of(path: Path) -> Iterator[list[str]]:
    """The words after `kdcache` of every command in the header, its shell loops unrolled."""
    for line in path.read_text().splitlines():
        if not (line.startswith("#   ") and "kdcache " in line):
            continue
        line = line.removeprefix("#   ")
        loop = re.fullmatch(r"for (\w) in ([\w ]+); do (.*); done", line)
        bodies = [line]
        if loop:
            bodies = [loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()]
        for body in bodies:
            words = shlex.split(body)
            assert words[0] == "kdcache", body
            yield words[1:]


@every_config
def test_its_header_says_where_it_comes_from_and_what_it_gave(path: Path) -> None:
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for what in ("source: ", "hardware: ", "result: "):
        assert header.count(f"# {what}") == 1, what


@every_config
def test_it_is_a_run_of_known_names(path: Path) -> None:
    config = config_of("--config", str(path))
    written = read_toml(path)
    assert config.switches == written.get("switches", {})
    assert config.recipe_options == written.get("recipe_options", {})
    for key in written.keys() - {"switches", "mentors", "recipe_options"}:
        assert getattr(config, key) == written[key]
    assert config.mentors == (tuple(written["mentors"]) if "mentors" in written else None)
    for name in (config.student, *(config.mentors or ())):
        assert long_name(name)
    build_method(config.method, task=task_of(config.dataset, None), **config.switches)


@every_config
def test_the_commands_it_shows_make_what_it_trains_from(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = config_of("--config", str(path))
    commands = list(commands_of(path))
    assert [words for words in commands if words[0] == "train-student"][-1][:3] == [
        "train-student", "--config", f"configs/{path.name}",
    ]  # fmt: skip
    parsed = [(words[0], parse(words)) for words in commands]
    trained = [params["name"] for name, params in parsed if name == "train-mentor"]
    stores = [params for name, params in parsed if name == "precompute"]
    if config.mentors is not None:
        assert tuple(trained) == config.mentors
        assert [params["mentors"] for params in stores] == [config.mentors]
        assert stores[0]["views"] == (config.views or config.epochs)
    for params in [p for name, p in parsed if name in ("train-mentor", "precompute")]:
        assert params["dataset"] == config.dataset
        assert params["recipe_options"] == config.recipe_options


@dataclass(frozen=True)
class Classroom:
    """A small store with all that any method may need, and the options that a run on it takes."""

    mentors: tuple[str, str]
    options: tuple[str, ...]


def make_classroom(folder: Path, task: str, dataset: str) -> Classroom:
    """Two views of small data by two mentors: the large digits, or a few people."""
    options, view_options = ["--dataset", DATASET], {}
    names = ("r8", "r14")
    if task == POSE:
        small_poses(folder / "data")
        names, view_options = ("lp18", "mbpose"), {"height": 64, "width": 64}
        options = ["--dataset", dataset, "--data-dir", str(folder / "data")]
        options += [w for k, v in view_options.items() for w in ("--recipe-option", f"{k}={v}")]
    images = kdcache.open_dataset(options[1], data_dir=folder / "data")
    checkpoints = {}
    for name in names:
        network = build_network(name, images.num_classes, seed=1)
        if task == POSE:  # maps high enough to show joints, wherever
            network.get_parameter("final_layer.bias").data.fill_(0.5)
        checkpoints[name] = folder / f"{name}.safetensors"
        save_weights(checkpoints[name], network, {})
    kdcache.precompute_targets(
        images, names, checkpoints=checkpoints, store=folder / "store", views=2, batch_size=64,
        recipe_options=view_options,
    )  # fmt: skip
    return Classroom(names, (*options, "--store", str(folder / "store")))


@pytest.fixture(scope="module")
def classroom_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Classroom]:
    """The classroom for a config's dataset; one for all that classify."""

    @cache
    def made(task: str, dataset: str) -> Classroom:
        return make_classroom(tmp_path_factory.mktemp("configs"), task, dataset)

    def of(dataset: str) -> Classroom:
        task = task_of(dataset, None)
        return made(task, dataset if task == POSE else DATASET)

    return of


@every_config
def test_two_steps_of_it_train(
    path: Path, classroom_of: Callable[[str], Classroom], tmp_path: Path
) -> None:
    config = config_of("--config", str(path))
    classroom = classroom_of(str(config.dataset))
    command = [
        "train-student", "--config", str(path), *classroom.options, "--views", "2",
        "--mentors", ",".join(classroom.mentors), "--samples", "20", "--batch-size", "10",
        "--epochs", "1", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (record,) = RunFolder(tmp_path / "run").records()
    assert record["lr"] == config.lr
    assert 0 < record["train_loss"] < 1000
    assert record["mentor_loss"] > 0


def test_a_run_of_people_is_made_again_by_its_own_config(tmp_path: Path) -> None:
    """Its recipe's options, switches and all: the same config, views and losses."""
    small_poses(tmp_path / "data")
    options = {"height": 64, "width": 32, "half_body": 0.3, "scale": 0.1, "flip": 0}
    command = [
        "train-student", "--student", "lp18", "--dataset", "coco-keypoints",
        "--data-dir", str(tmp_path / "data"), "--method", "ce", "--epochs", "1",
        "--batch-size", "10", "--flip-test", "--out", str(tmp_path / "first"),
        *[w for k, v in options.items() for w in ("--recipe-option", f"{k}={v}")],
    ]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    written = tmp_path / "first" / "config.toml"
    again = config_of("--config", str(written))
    assert again.recipe_options == options
    assert again == RunFolder(tmp_path / "first").adopt(again)
    result = CliRunner().invoke(
        main, ["train-student", "--config", str(written), "--out", str(tmp_path / "second")]
    )
    assert result.exit_code == 0, result.output
    first, second = (RunFolder(tmp_path / name).records() for name in ("first", "second"))
    for record in (*first, *second):
        del record["seconds"]
    assert first == second
    repeated = read_toml(tmp_path / "second" / "config.toml")
    assert repeated | {"out": ""} == read_toml(written) | {"out": ""}
