"""The methods' own options, by METHODS' names; None means the method's default."""

from typing import Any

import click

from kdcache.cli.options import stack


class NumberOrWord(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """A number where it reads as one, else the word."""

    name = "number|word"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        try:
            return float(value)
        except ValueError:
            return str(value)


_SWITCHES: dict[str, tuple[Any, str]] = {
    "tau": (float, "classroom: how much a full gap adds to the temperature (12)."),
    "granularity": (str, "classroom: sample or batch confidences (sample)."),
    "weighting": (str, "classroom: what weights follow (confidence)."),
    "gate": (str, "classroom: knowledge filter, hard, soft or off (hard)."),
    "gate_margin": (float, "classroom: how far ahead an active mentor must be (0)."),
    "mentor_weight": (str, "classroom: confidence or one (confidence)."),
    "task_weight": (str, "classroom: confidence or one (confidence)."),
    "temperature": (
        NumberOrWord(),
        "classroom: gap or fixed (gap); kd, average: a number (4).",
    ),
    "fixed_temperature": (float, "classroom: the temperature of --temperature fixed (1)."),
    "gap": (str, "classroom: ratio or difference (ratio)."),
    "t_max": (float, "classroom: upper bound of any temperature (none)."),
    "kd_scale": (NumberOrWord(), "classroom: sum, per-active-weight or a number (sum)."),
    "round_shares": (int, "classroom, per batch: decimals of the shares (none)."),
    "ce_weight": (float, "kd, average: weight of the labels' cross-entropy (0.1)."),
    "kd_weight": (float, "kd, average: weight of the mentors' term (0.9)."),
}

switch_options = stack(
    *(
        click.option(f"--{name.replace('_', '-')}", name, type=kind, help=help_line)
        for name, (kind, help_line) in _SWITCHES.items()
    )
)


def take_switches(options: dict[str, Any]) -> dict[str, Any]:
    """Removes the switches from a command's options; returns those that were given."""
    switches = {name: options.pop(name) for name in _SWITCHES}
    return {name: value for name, value in switches.items() if value is not None}
