"""Every command and every option explains itself; options agree with what they configure."""

import dataclasses
from collections.abc import Iterator

import click
import pytest

from kdcache.classroom import METHODS, POSE_METHODS
from kdcache.cli import main
from kdcache.cli.method_switches import SWITCHES
from kdcache.train import TrainConfig


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


def test_train_student_offers_every_field_of_its_config_with_the_same_default() -> None:
    defaults = defaults_of("train-student")
    for field in dataclasses.fields(TrainConfig):
        if field.name not in ("switches", "checkpoints"):
            assert defaults[field.name] == field.default, field.name


def test_train_student_offers_the_switches_of_every_method_and_no_others() -> None:
    methods = (*METHODS.values(), *POSE_METHODS.values())
    fields = {field.name for method in methods for field in dataclasses.fields(method)}
    assert set(SWITCHES) == fields - {"sigmas"}  # those are the dataset's
    defaults = defaults_of("train-student")
    assert all(defaults[name] is None for name in SWITCHES)


def test_the_help_of_method_names_every_method() -> None:
    options = {option.name: option for option in main.commands["train-student"].params}
    method = options["method"]
    assert isinstance(method, click.Option)
    named = str(method.help).rstrip(".").replace(" or ", ", ").split(", ")
    assert sorted(named) == sorted(METHODS)


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
