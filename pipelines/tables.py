"""Numbers of several runs as one line, and lines as a table."""

import math
from collections.abc import Sequence


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, s / sqrt(n) with s over n - 1; None for a single value.

    Raises ValueError for no values at all.
    """
    n = len(values)
    if not n:
        raise ValueError("values must hold at least one number, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too; no newline at the end.

    The first column is left-aligned, the others right. A bar within a cell is escaped. Raises
    ValueError for a row of another length than the header.
    """
    lines = [[_cell(text) for text in row] for row in (header, *rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a row must have the header's {len(header)} cells, got {line}")
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(header))]
    padded = [
        [line[0].ljust(widths[0])]
        + [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    ]
    rule = ["-" * w if k == 0 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (padded[0], rule, *padded[1:]))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
