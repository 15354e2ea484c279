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


class NumberList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Comma-separated numbers; the tuple of them."""

    name = "x,y,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"expected numbers such as 0.026,0.025, got {value!r}", param, ctx)


class ColumnList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Comma-separated positions of mentors, the first being 0; the tuple of them."""

    name = "i,j,.."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            if all(type(part) in (int, str) for part in parts):
                return tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            pass
        self.fail(f"expected positions of mentors such as 0,2, got {value!r}", param, ctx)


# Name of the field -> (type, help). `bool` makes a pair, --name and --no-name.
SWITCHES: dict[str, tuple[Any, str]] = {
    "tau": (float, "classroom: how much a full gap adds to the temperature (12; poses: 1.5)."),
    "granularity": (
        str,
        "classroom: sample or batch confidences (sample); of poses joint or sample (joint).",
    ),
    "confidence": (
        str,
        "classroom, poses: peak, how alike a map and the label's are, or oks, by distance (peak).",
    ),
    "min_peak": (float, "classroom, poses: a map that peaks lower does not see its joint (0.1)."),
    "sigmas": (
        NumberList(),
        "classroom, poses, by oks: each joint's deviation (the skeleton's).",
    ),
    "divergence": (
        str,
        "poses: mse, or kl of spatial softmaxes (mse).",
    ),
    "label_weight": (float, "kd, average, poses: weight of the labels' term (0.5)."),
    "weighting": (str, "classroom: what weights follow, confidence or rank (confidence)."),
    "rank_scale": (float, "classroom, by rank: the rank that weighs 1 (10)."),
    "teachers": (
        ColumnList(),
        "classroom, by rank: positions in the order of --mentors, from 0, of those that weigh "
        "their confidence (none).",
    ),
    "gate": (str, "classroom: knowledge filter, hard, soft or off (hard)."),
    "gate_margin": (float, "classroom: how far ahead an active mentor must be (0)."),
    "mentor_weight": (str, "classroom: confidence or one (confidence)."),
    "task_weight": (str, "classroom: confidence or one (confidence; poses: one)."),
    "temperature": (
        NumberOrWord(),
        "classroom: gap or fixed (gap); kd, average, soft, ca-mkd, ebkd, dkd, dist: a number (4); "
        "amtml: a number (5); kd, average, poses: a number (1).",
    ),
    "fixed_temperature": (float, "classroom: the temperature of --temperature fixed (1)."),
    "gap": (str, "classroom: ratio, difference or absolute (ratio; by rank absolute)."),
    "t_max": (float, "classroom: upper bound of any temperature (none)."),
    "kd_scale": (NumberOrWord(), "classroom: sum, per-active-weight or a number (sum)."),
    "round_shares": (int, "classroom, per batch: decimals of the shares (none)."),
    "standardise": (
        bool,
        "classroom, kd, average: rows of mean 0 and deviation 1 before the temperature (no).",
    ),
    "ce_weight": (
        float,
        "weight of the labels' cross-entropy; kd, average, soft, ca-mkd, ebkd, logit-mse (0.1); "
        "dkd, dist (1); amtml (0.3).",
    ),
    "kd_weight": (
        float,
        "kd, average, soft, ca-mkd, ebkd, logit-mse: weight of the mentors' term (0.9); "
        "amtml: (1.4); kd, average, poses: (0.5).",
    ),
    "divide_by_k": (bool, "ca-mkd: divide by the number of mentors, as the released code (no)."),
    "alpha": (float, "dkd: weight of the true class's part (1)."),
    "beta": (
        float,
        "dkd: weight of the other classes' part (8); dist: of the rows' part (2); poses, kl: what "
        "heatmaps are multiplied by (25).",
    ),
    "gamma": (float, "dist: weight of the columns' part (2)."),
    "warm_up": (int, "dkd: epochs until the mentors teach at full strength (20)."),
    "reduction": (str, "amtml: batchmean or authors, which divides by classes too (batchmean)."),
    "rkd_distance_weight": (float, "amtml: weight of the relational distances (1)."),
    "rkd_angle_weight": (float, "amtml: weight of the relational angles (1)."),
    "regularise": (bool, "amtml: hold the learned weights small in phase 1 (no)."),
    "phase1_epochs": (int, "amtml: epochs in which the mentors' weights learn (80 of 280)."),
    "hint_weight": (float, "amtml: weight of the hints; needs the mentors' features (0)."),
    "train_adapter": (bool, "amtml: whether the hints' adapter learns (yes)."),
}


def _option(name: str, kind: Any, help_line: str) -> Any:
    flag = name.replace("_", "-")
    if kind is bool:
        return click.option(f"--{flag}/--no-{flag}", name, default=None, help=help_line)
    return click.option(f"--{flag}", name, type=kind, help=help_line)


switch_options = stack(
    *(_option(name, kind, help_line) for name, (kind, help_line) in SWITCHES.items())
)


def take_switches(options: dict[str, Any]) -> dict[str, Any]:
    """Removes the switches from a command's options; returns those that were given."""
    switches = {name: options.pop(name) for name in SWITCHES}
    return {name: value for name, value in switches.items() if value is not None}
