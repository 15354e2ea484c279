"""Options that several commands share, in stacks; and `--config`, which gives any in TOML."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kdcache.config import read_toml
from kdcache.errors import UsageError, unknown_name

Command = TypeVar("Command", bound=Callable[..., Any])
Stack = Callable[[Command], Command]


def stack(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several option decorators as one, in the order they are listed."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class NameList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Comma-separated names; the tuple of them."""

    name = "a,b,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not all(isinstance(p, str) for p in parts):
            self.fail(f"expected names, got {value!r}", param, ctx)
        names = tuple(part.strip() for part in parts if part.strip())
        if not names:
            self.fail("name at least one", param, ctx)
        return names


class ViewChoice(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """How many views (the first ones), a list of view numbers, or a range start:stop of them."""

    name = "n|v,w,..|start:stop"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        listed = isinstance(value, (list, tuple))
        try:
            if not listed and ":" in str(value):
                return self._range(str(value))
            numbers = tuple(int(part) for part in (value if listed else str(value).split(",")))
        except (TypeError, ValueError):
            self.fail(
                "expected a number, a list of numbers or a range such as 0:40 (0 to 39), got "
                f"{value!r}",
                param,
                ctx,
            )
        return numbers if listed or len(numbers) > 1 else numbers[0]

    def _range(self, text: str) -> tuple[int, ...]:
        start, stop = (int(part) for part in text.split(":"))
        if not 0 <= start < stop <= _MOST_VIEWS:
            raise ValueError
        return tuple(range(start, stop))


_MOST_VIEWS = 2**18  # of a range; a mentor has no more chunks


class SeedList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Comma-separated seeds; the tuple of them."""

    name = "a,b,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            seeds = tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"expected numbers, got {value!r}", param, ctx)
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            self.fail(f"expected different numbers from 0, got {value!r}", param, ctx)
        return seeds


def _load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Makes a TOML file's values the command's defaults; a run's own config.toml will do."""
    if value is None:
        return
    given = {key.replace("-", "_"): entry for key, entry in read_toml(value).items()}
    is_record = given.pop("environment", None) is not None
    tables = [given.pop(key, {}) for key in ("switches", "checkpoints", "recipe_options")]
    if not all(isinstance(table, dict) for table in tables):
        raise UsageError(
            f"{value}: switches, checkpoints and recipe_options must be tables, as in [switches]"
        )
    switches, checkpoints, recipe_options = tables
    given.update(switches)
    if recipe_options:
        given["recipe_options"] = [
            f"{name}={str(entry).lower()}" for name, entry in recipe_options.items()
        ]
    if checkpoints:
        given["checkpoint"] = [f"{name}={file}" for name, file in checkpoints.items()]
    options = {parameter.name: parameter for parameter in ctx.command.params if parameter.name}
    for key, entry in list(given.items()):
        if key in options:
            _check_type(value, key, entry, options[key])
        elif is_record:
            del given[key]  # an option of another command, such as a mentor's `student`
        else:
            raise UsageError(f"{value}: {unknown_name('key', key, options.keys() - {'config'})}")
    ctx.default_map = {**(ctx.default_map or {}), **given}


_TOML_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "float": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "path": (str,),
    "number|word": (int, float, str),
}


def _check_type(path: str, key: str, entry: Any, option: click.Parameter) -> None:
    """Refuses what click would convert in silence, such as 2.7 epochs to 2, or trip over."""
    kind = option.type.name
    allowed = _TOML_TYPES.get(kind)
    listed = option.multiple if isinstance(option, click.Option) else False
    for value in entry if listed and isinstance(entry, list) else [entry]:
        is_bool = isinstance(value, bool)
        if allowed and (not isinstance(value, allowed) or is_bool != (kind == "boolean")):
            raise UsageError(f"{path}: {key} must be of type {kind}, got {repr(value)[:100]}")


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="TOML file that gives any of these options; the command line wins.",
)


def hub_argument(name: str = "hub", metavar: str = "HUB") -> Callable[[Command], Command]:
    """An optional argument that names a hub, which --hub may name as well."""
    return stack(
        click.argument(name, metavar=f"[{metavar}]", required=False, callback=_choose_hub),
        click.option(
            "--hub",
            "hub" if name != "hub" else "hub_option",
            metavar=metavar,
            is_eager=True,
            expose_value=False,
            callback=_keep_hub,
            help=f"The same as the argument {metavar}.  [default: $KDCACHE_HUB]",
        ),
    )


_HUB = "kdcache.hub"
_TYPED = click.core.ParameterSource.COMMANDLINE


def _keep_hub(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta[_HUB] = value, ctx.get_parameter_source(str(param.name)) is _TYPED


def _choose_hub(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """What is typed wins over what --config gives."""
    optional, is_typed = ctx.meta.pop(_HUB)
    if ctx.get_parameter_source(str(param.name)) is not _TYPED:
        return optional if is_typed else value or optional
    if is_typed and optional != value:
        raise UsageError(f"two hubs are named, {value} and --hub {optional}; name one of them")
    return value


dataset_options = stack(
    click.option(
        "--dataset",
        help="cifar100, cifar10, digits, coco-keypoints, mpii, or any map-style dataset as "
        "module:factory.  "
        "[default: the store's, else cifar100]",
    ),
    click.option(
        "--data-dir",
        help="Folder that holds the dataset.  [default: $KDCACHE_DATA]",
    ),
)

samples_option = click.option(
    "--samples",
    type=int,
    help="Train on the first N samples, balanced over classes; of people the first N.  "
    "[default: all]",
)

checkpoint_option = click.option(
    "--checkpoint",
    multiple=True,
    metavar="NAME=FILE",
    help="A mentor's weights, where they are not in the mentor library; repeatable.",
)

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)

ENCODERS_HELP = (
    "float16, float32, sqrt8, sqrt8-zstd, residual, coarse, or auto: the smallest within "
    "--fidelity."
)
fidelity_option = click.option(
    "--fidelity",
    type=float,
    help="Largest mean KL divergence that encoding may cost, at temperatures 1, 4 and 12.  "
    "[default: 1e-4; coarse 1e-3]",
)
