"""Progress with throughput and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

PLAIN_SECONDS = 10.0


class ProgressLine:
    """Called with (done, total) as often as anyone likes."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: Any = None
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            self._draw(done, total)
        elif time.monotonic() - self._printed >= PLAIN_SECONDS or done == total:
            self._printed = time.monotonic()
            elapsed = self._printed - self._started
            rate = done / elapsed if elapsed else 0.0
            left = (total - done) / rate if rate else 0.0
            click.echo(
                f"{done:,} of {total:,} {self._unit} ({done / total:.0%}), {rate:,.0f} a second, "
                f"{readable_seconds(left)} left",
                err=True,
            )

    def close(self) -> None:
        """Leaves the terminal tidy."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", unit_scale=True, smoothing=0.1)
        self._bar.update(done - self._bar.n)


@contextmanager
def progress_line(unit: str) -> Iterator[ProgressLine]:
    """A `ProgressLine` that is closed whatever happens."""
    line = ProgressLine(unit)
    try:
        yield line
    finally:
        line.close()


def readable_seconds(seconds: float) -> str:
    """12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def readable_bytes(count: float) -> str:
    """12 kB, 3.4 MB, 5.6 GB (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
