"""One table: a line a measurement, and under it what exactly was measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.paired import Budget, Spread, verdict

COLUMNS = ("what", "median", "interval", "budget", "aim", "verdict", "n")
_LAYOUT = "{:<60} {:>9}  {:<20} {:<8} {:>5}  {:<19} {:>3}"


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

    def cells(self) -> list[str]:
        """A text a column."""
        measured, budget = self.measured, self.budget
        low, high = number(measured.low), number(measured.high)
        return [
            self.what,
            f"{number(measured.median)}{self.unit}",
            "" if measured.n == 1 else f"[{low}, {high}]",
            "" if budget is None else str(budget),
            "" if budget is None or budget.aim is None else f"{budget.aim:g}",
            self.verdict,
            str(measured.n),
        ]

    def lines(self) -> Iterator[str]:
        """As printed."""
        yield _LAYOUT.format(*self.cells()).rstrip()
        if self.detail:
            yield f"    {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that cannot be measured here."""

    what: str
    why: str

    def cells(self) -> list[str]:
        """A text a column."""
        return [self.what, "", "", "", "", f"skipped: {self.why}", ""]

    def lines(self) -> Iterator[str]:
        """As printed."""
        yield f"{self.what:<60} skipped: {self.why}"


def heading() -> str:
    """The line above the rows."""
    return _LAYOUT.format(*COLUMNS)


def markdown(rows: Iterable[Row | Skipped]) -> Iterator[str]:
    """The same cells as a Markdown table; a row's detail in a column of its own."""
    yield _markdown_line([*COLUMNS, "measured"])
    yield "|" + "---|" * (len(COLUMNS) + 1)
    for row in rows:
        yield _markdown_line([*row.cells(), row.detail if isinstance(row, Row) else ""])


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def number(value: float) -> str:
    """Four significant digits, never an exponent for the numbers that occur here."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def milliseconds(seconds: float) -> str:
    """1.5 ms."""
    return f"{number(1000 * seconds)} ms"
