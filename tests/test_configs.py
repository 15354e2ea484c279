"""The shipped configs: headed, valid, consistent with the commands they show, and trainable."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.classroom import METHODS
from kdcache.cli import main
from kdcache.cli.method_switches import take_switches
from kdcache.config import read_toml
from kdcache.models import build_network, long_name
from kdcache.train import with_defaults
from kdcache.train.run_folder import RunFolder

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
    return kdcache.TrainConfig(**with_defaults(given))


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
    for key in written.keys() - {"switches", "mentors"}:
        assert getattr(config, key) == written[key]
    assert config.mentors == (tuple(written["mentors"]) if "mentors" in written else None)
    for name in (config.student, *(config.mentors or ())):
        assert long_name(name)
    METHODS[config.method](**config.switches)  # ValueError for a switch or value it lacks


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
        assert stores[0]["views"] == config.epochs
    for params in [p for name, p in parsed if name in ("train-mentor", "precompute")]:
        assert params["dataset"] == config.dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of the large digits by two mentors, with all that any method may need."""
    folder = tmp_path_factory.mktemp("configs")
    checkpoints = {}
    for name in ("r8", "r14"):
        checkpoints[name] = folder / f"{name}.safetensors"
        save_weights(checkpoints[name], build_network(name, 10, seed=1), {})
    kdcache.precompute_targets(
        kdcache.open_dataset(DATASET), ["r8", "r14"], checkpoints=checkpoints,
        store=folder / "store", views=2, batch_size=64,
    )  # fmt: skip
    return folder / "store"


@every_config
def test_two_steps_of_it_train(path: Path, store: Path, tmp_path: Path) -> None:
    command = [
        "train-student", "--config", str(path), "--dataset", DATASET, "--store", str(store),
        "--mentors", "r8,r14", "--samples", "20", "--batch-size", "10", "--epochs", "1",
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (record,) = RunFolder(tmp_path / "run").records()
    config = config_of("--config", str(path))
    assert record["lr"] == config.lr
    assert 0 < record["train_loss"] < 1000
    assert record["mentor_loss"] > 0
