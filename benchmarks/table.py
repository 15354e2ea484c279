"""One table: a line a measurement, and under it what exactly was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.paired import Budget, Spread, verdict

_LAYOUT = "{what:<60} {measured:>9}  {interval:<20} {budget:<8} {aim:>5}  {verdict:<19} {n:>3}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. `detail`: sizes and absolute numbers; `note`: a verdict that outranks ours.

    No budget: the row is there to explain others.
    """

    what: str
    measured: Spread
    budget: Budget | None = None
    unit: str = ""
    detail: str = ""
    note: str | None = None

    @property
    def verdict(self) -> str:
        """In words; see `paired.verdict`."""
        return verdict(self.measured, self.budget) if self.note is None else self.note

    def lines(self) -> Iterator[str]:
        """As printed."""
        measured, budget = self.measured, self.budget
        low, high = number(measured.low), number(measured.high)
        aim = "" if budget is None or budget.aim is None else f"{budget.aim:g}"
        line = _LAYOUT.format(
            what=self.what,
            measured=f"{number(measured.median)}{self.unit}",
            interval="" if measured.n == 1 else f"[{low}, {high}]",
            budget="" if budget is None else str(budget),
            aim=aim,
            verdict=self.verdict,
            n=measured.n,
        )
        yield line.rstrip()
        if self.detail:
            yield f"    {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that cannot be measured here."""

    what: str
    why: str

    def lines(self) -> Iterator[str]:
        """As printed."""
        yield f"{self.what:<60} skipped: {self.why}"


def heading() -> str:
    """The line above the rows."""
    return _LAYOUT.format(
        what="what",
        measured="median",
        interval="interval",
        budget="budget",
        aim="aim",
        verdict="verdict",
        n="n",
    )


def number(value: float) -> str:
    """Four significant digits, never an exponent for the numbers that occur here."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def milliseconds(seconds: float) -> str:
    """1.5 ms."""
    return f"{number(1000 * seconds)} ms"
