"""Two sides timed in turns (A B A B ..), and what their ratio says about a budget.

Machines drift: other processes, clocks, caches. Neighbours in time share the drift, so every ratio
is taken within one round, and the median of the rounds is reported with its interval.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

Side = Callable[[], float]  # does the work once and returns the seconds it took

CONFIDENCE = 0.95


class SidesDiffer(Exception):
    """The sides of a comparison gave different results, so timing them would say nothing."""


def require_same(same: bool, what: str) -> None:
    """Raises SidesDiffer unless both sides of a comparison gave the same `what`."""
    if not same:
        raise SidesDiffer(f"the sides of this comparison disagree on {what}; nothing was timed")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median of n measurements and an interval that holds the true median."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a measurement should reach: `limit`, and the `aim` beyond it."""

    limit: float
    aim: float | None = None
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{'>=' if self.higher_is_better else '<='} {self.limit:g}"


def timed(work: Callable[[], object], calls: int = 1) -> Side:
    """The side that does `work` `calls` times, by the wall clock, garbage collection held off."""

    def side() -> float:
        collecting = gc.isenabled()
        gc.disable()
        try:
            started = time.perf_counter()
            for _ in range(calls):
                work()
            return time.perf_counter() - started
        finally:
            if collecting:
                gc.enable()

    return side


def interleave(sides: Mapping[str, Side], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each side, in rounds of one call each; the first `warm_up` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for done in range(warm_up + repeats):
        for name, side in sides.items():
            took = side()
            if done >= warm_up:
                seconds[name].append(took)
        gc.collect()
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The spread of the ratios of rounds."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    """The median and its interval of at least 95% confidence.

    Order statistics, so nothing is assumed of the noise: of 9 values the second and the eighth.
    Fewer than 6 values cannot be that sure; their interval is the least and the greatest.
    """
    ordered = sorted(values)
    n, rank = len(ordered), 0
    # 2 P(Binomial(n, 1/2) <= rank) is the risk of the ordered values rank + 1 and n - rank.
    while 2 * sum(comb(n, k) for k in range(rank + 2)) / 2**n <= 1 - CONFIDENCE:
        rank += 1
    return Spread(
        median=statistics.median(ordered), low=ordered[rank], high=ordered[n - 1 - rank], n=n
    )


def verdict(measured: Spread, budget: Budget | None) -> str:
    """`met` or `not met` where the whole interval lies on one side of the budget."""
    if budget is None:
        return ""
    better, worse = measured.low >= budget.limit, measured.high < budget.limit
    if not budget.higher_is_better:
        better, worse = measured.high <= budget.limit, measured.low > budget.limit
    if better:
        return "met"
    return "not met" if worse else "not decidable here"
