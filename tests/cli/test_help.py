"""Every command and every option explains itself; options agree with what they configure."""

import dataclasses
from collections.abc import Iterator

import click
import pytest

from kdcache.classroom import METHODS
from kdcache.classroom.build import POSE_METHODS
from kdcache.cli import main
from kdcache.cli.method_switches import SWITCHES
from kdcache.tasks import CLASSIFICATION, POSE
from kdcache.train import TrainConfig, with_defaults
from kdcache.train.task_defaults import DEFAULTS


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "kdcache", main
    yield from main.commands.items()


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_has_help(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


def defaults_of(command: str) -> dict[str, object]:
    return main.commands[command].make_context(command, []).params


EVERY_METHOD = [*METHODS.values(), *POSE_METHODS.values()]


@pytest.mark.parametrize(("dataset", "task"), [("digits", CLASSIFICATION), ("mpii", POSE)])
def test_train_student_offers_every_field_of_its_config_with_the_tasks_default(
    dataset: str, task: str
) -> None:
    given = defaults_of("train-student")
    for field in dataclasses.fields(TrainConfig):
        if field.name not in ("switches", "checkpoints"):
            assert field.name in given
    of_config = {field: given[field] for field in given.keys() & TrainConfig.__dataclass_fields__}
    config = TrainConfig(**with_defaults({**of_config, "dataset": dataset}))
    assert config == TrainConfig(dataset=dataset, **DEFAULTS[task])


@pytest.mark.parametrize("task", [CLASSIFICATION, POSE])
def test_the_help_states_the_defaults_of_both_tasks(task: str) -> None:
    options = {option.name: option for option in main.commands["train-student"].params}
    for name, value in DEFAULTS[POSE].items():
        option = options[name]
        assert isinstance(option, click.Option)
        shown = value if task == POSE else TrainConfig.__dataclass_fields__[name].default
        words = str(option.help).replace("]", " ").replace(";", " ").split()
        assert f"{shown:g}" if isinstance(shown, float) else str(shown) in words, name


def test_train_student_offers_every_switch_of_every_method() -> None:
    defaults = defaults_of("train-student")
    for method in EVERY_METHOD:
        for field in dataclasses.fields(method):
            assert defaults[field.name] is None, field.name


def test_train_student_offers_no_switch_that_no_method_has() -> None:
    fields = {field.name for method in EVERY_METHOD for field in dataclasses.fields(method)}
    assert set(SWITCHES) == fields


def test_the_help_of_method_names_every_method() -> None:
    options = {option.name: option for option in main.commands["train-student"].params}
    method = options["method"]
    assert isinstance(method, click.Option)
    of_classes, of_poses = (
        part.rstrip(".").replace(" or ", ", ").split(", ")
        for part in str(method.help).split("; of poses ")
    )
    assert sorted(of_classes) == sorted(METHODS)
    assert sorted(of_poses) == sorted(POSE_METHODS)


@pytest.mark.parametrize(("name", "text"), [("teachers", "0,r20"), ("teachers", "1.5")])
def test_positions_of_mentors_are_whole_numbers(name: str, text: str) -> None:
    with pytest.raises(click.BadParameter, match="positions of mentors such as 0,2"):
        main.commands["train-student"].make_context("", [f"--{name}", text])


def test_switches_that_are_flags_or_lists() -> None:
    given = ["--teachers", "0,2", "--standardise", "--no-divide-by-k"]
    options = main.commands["train-student"].make_context("", given).params
    assert options["teachers"] == (0, 2)
    assert options["standardise"] is True
    assert options["divide_by_k"] is False
