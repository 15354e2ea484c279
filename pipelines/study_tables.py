"""The filter study's tables: accuracies, paired differences with the filter's verdict, and more.

A run is a dict with `setting`, `arm`, `seed`, `views`, `top1` (percent), `active` (each mentor's
share of the samples in the last epoch) and `seconds`.

The verdict, for one setting of three seeds or more: the knowledge filter's claim *holds* where it
beats both the soft weights and the random gate by more than two standard errors of the paired
differences; it is *refuted* where it ties with the soft weights within these, or is worse; else it
is *open*: better than soft weights, but no better than a gate that knows nothing, or with none to
compare.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from pipelines.tables import markdown_table, mean_and_error

# The filter, the weights without a gate it is held against, and the gate that knows nothing: first
# the methods as they are published, then arms that differ in the gate alone.
COMPARISONS: tuple[tuple[str, str, str | None], ...] = (
    ("classroom", "soft", None),
    ("classroom-t1", "soft", "random-gate-t1"),
    ("classroom-t1", "weight-only-t1", "random-gate-t1"),
    ("soft-gated", "soft", None),
)
FACTORS = (  # what a gate, weights, and either on top of the other add at T = 1
    ("gate-only-t1", "plain-t1"),
    ("weight-only-t1", "plain-t1"),
    ("classroom-t1", "gate-only-t1"),
    ("classroom-t1", "weight-only-t1"),
    ("oracle-gate-t1", "classroom-t1"),
)
LEAST_SEEDS = 3
ERRORS = 2.0

Runs = Sequence[Mapping[str, Any]]


def study_tables(runs: Runs, *, views: int) -> list[str]:
    """Markdown, a table each. `views`: how many views the settings are compared at."""
    if not runs:
        return ["No run of this size is finished."]
    main = [run for run in runs if run["views"] == views]
    minutes = sum(run["seconds"] for run in runs) / 60
    return [
        f"{len(runs)} runs, {minutes:.0f} minutes of training and testing, "
        f"{minutes / len(runs):.1f} minutes a run; standard deviation of one run's top-1, pooled "
        f"over all cells: {pooled_deviation(runs):.2f}.",
        "Top-1 of the last epoch, percent: mean ± standard error (n seeds).",
        accuracy_table(main),
        "Differences in top-1, paired by seed: mean ± standard error (n), and the verdict.",
        difference_table(main),
        "What each part adds at T = 1, paired by seed: mean ± standard error (n).",
        factor_table(main),
        "Share of samples a mentor is active for in the last epoch, mean over mentors and seeds.",
        active_table(main),
        "Clean mentors, by the number of cached views: top-1, mean ± standard error (n).",
        views_table([run for run in runs if run["setting"] == "clean"]),
    ]


def accuracy_table(runs: Runs) -> str:
    """Arms down, settings across."""
    settings, arms = _names(runs, "setting"), _names(runs, "arm")
    rows = [
        [arm, *(_mean(run["top1"] for run in _cell(runs, setting, arm)) for setting in settings)]
        for arm in arms
    ]
    return markdown_table(["arm", *settings], rows)


def difference_table(runs: Runs) -> str:
    """One line a setting and comparison: the filter less each of its controls."""
    rows = []
    for setting in _names(runs, "setting"):
        for arm, soft, random in COMPARISONS:
            to_soft = paired_differences(runs, setting, arm, soft)
            to_random = paired_differences(runs, setting, arm, random) if random else []
            if to_soft and (to_random or random is None):
                rows.append(
                    [setting, arm, soft, _mean(to_soft), _mean(to_random),
                     verdict(to_soft, to_random)]
                )  # fmt: skip
    header = ["setting", "filter", "soft control", "less soft", "less random gate", "claim"]
    return markdown_table(header, rows)


def factor_table(runs: Runs) -> str:
    """Pairs of arms down, settings across."""
    settings = _names(runs, "setting")
    rows = []
    for arm, without in FACTORS:
        gains = [_mean(paired_differences(runs, setting, arm, without)) for setting in settings]
        if any(gains):
            rows.append([f"{arm} less {without}", *gains])
    return markdown_table(["pair", *settings], rows)


def paired_differences(runs: Runs, setting: str, arm: str, control: str) -> list[float]:
    """Top-1 of `arm` less that of `control`, for each seed that has both."""
    ours, theirs = (
        {run["seed"]: run["top1"] for run in _cell(runs, setting, name)} for name in (arm, control)
    )
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def verdict(to_soft: Sequence[float], to_random: Sequence[float]) -> str:
    """What the differences say of the filter's claim.

    Without a random gate to compare with, it is open at best.
    """
    if len(to_soft) < LEAST_SEEDS or 0 < len(to_random) < LEAST_SEEDS:
        return "few seeds"
    if not _beats(to_soft):
        return "refuted: worse" if _beats([-gain for gain in to_soft]) else "refuted: tie"
    return "holds" if to_random and _beats(to_random) else "open"


def pooled_deviation(runs: Runs) -> float:
    """The standard deviation of a single run, from all cells of several seeds; NaN without any.

    A cell of three seeds says little about its own; seeds move all cells about alike.
    """
    cells: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        cells.setdefault((run["setting"], run["arm"], run["views"]), []).append(run["top1"])
    several = [top1 for top1 in cells.values() if len(top1) > 1]
    squares = sum((value - fmean(top1)) ** 2 for top1 in several for value in top1)
    freedom = sum(len(top1) - 1 for top1 in several)
    return math.sqrt(squares / freedom) if freedom else math.nan


def active_table(runs: Runs) -> str:
    """Arms with a gate down, settings across."""
    settings = _names(runs, "setting")
    arms = _names([run for run in runs if any(share < 1 for share in run["active"])], "arm")
    rows = [[arm, *(_share(_cell(runs, setting, arm)) for setting in settings)] for arm in arms]
    return markdown_table(["arm", *settings], rows)


def views_table(runs: Runs) -> str:
    """Arms down, numbers of cached views across."""
    numbers = sorted({run["views"] for run in runs})
    arms = [
        arm
        for arm in _names(runs, "arm")
        if len({run["views"] for run in runs if run["arm"] == arm}) > 1
    ]
    rows = [
        [
            arm,
            *(
                _mean(r["top1"] for r in runs if (r["arm"], r["views"]) == (arm, number))
                for number in numbers
            ),
        ]
        for arm in arms
    ]
    return markdown_table(["arm", *map(str, numbers)], rows)


def _names(runs: Runs, key: str) -> list[str]:
    """In the order of first appearance."""
    return list(dict.fromkeys(run[key] for run in runs))


def _cell(runs: Runs, setting: str, arm: str) -> list[Mapping[str, Any]]:
    return [run for run in runs if (run["setting"], run["arm"]) == (setting, arm)]


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    if not found:
        return ""
    mean, error = mean_and_error(found)
    return f"{mean:.2f}" + ("" if error is None else f" ± {error:.2f} ({len(found)})")


def _share(runs: Runs) -> str:
    shares = [share for run in runs for share in run["active"]]
    return f"{100 * sum(shares) / len(shares):.0f}%" if shares else ""


def _beats(differences: Sequence[float]) -> bool:
    """Whether several are above 0 by more than two standard errors."""
    mean, error = mean_and_error(differences)
    assert error is not None
    return mean > ERRORS * error
