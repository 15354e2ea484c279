"""Options about views: the recipe and its parameters, and how joints are found in heatmaps."""

import tomllib
from typing import Any

import click

recipe_option = click.option(
    "--recipe",
    help="crop-flip or none; of people pose-affine or pose-crop.  [default: the store's, else "
    "crop-flip, pose-affine]",
)


def _parse_recipe_options(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...] | dict[str, Any]
) -> dict[str, Any]:
    """KEY=VALUE to numbers and booleans; a table of a config file as it is."""
    if isinstance(value, dict):
        return value
    found = {}
    for entry in value:
        key, equals, text = entry.partition("=")
        try:
            parsed = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = None
        if not (equals and key) or type(parsed) not in (int, float, bool):
            raise click.BadParameter(
                f"expected KEY=VALUE with a number or true, false, such as height=128, got "
                f"{entry!r}",
                ctx,
                param,
            )
        found[key.replace("-", "_")] = parsed
    return found


recipe_parameters_option = click.option(
    "--recipe-option",
    "recipe_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parse_recipe_options,
    help="A parameter of the recipe in place of the dataset's, such as height=128, width=96, "
    "half_body=0.3 or padding=2; repeatable.",
)

decoder_option = click.option(
    "--decoder",
    help="Of poses: how evaluations find a joint in its map, quarter (a quarter pixel towards the "
    "higher neighbour) or dark.  [default: quarter]",
)
flip_test_option = click.option(
    "--flip-test/--no-flip-test",
    default=None,
    help="Of poses: heatmaps are averaged with those of the mirror image.  [default: no]",
)
