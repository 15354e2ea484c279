"""Every command and every option explains itself; options agree with what they configure."""

import dataclasses
from collections.abc import Iterator

import click
import pytest

from kdcache.classroom import METHODS
from kdcache.cli import main
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


def test_train_student_offers_every_switch_of_every_method() -> None:
    defaults = defaults_of("train-student")
    for method in METHODS.values():
        for field in dataclasses.fields(method):
            assert defaults[field.name] is None, field.name
