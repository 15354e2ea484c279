"""Progress with throughput and time left: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

PLAIN_SECONDS = 10.0


class ProgressLine:
    """Called with (done, total) as often as anyone likes; a smaller `done` begins another round."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: Any = None
        self._done = 0
        self._started = self._printed = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done < self._done:
            self.close()
            self._started = time.monotonic()
        self._done = done
        if sys.stderr.isatty():
            self._draw(done, total)
        elif time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._print(done, total)

    def close(self) -> None:
        """Leaves the terminal tidy."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._unit}", unit_scale=True, leave=False)
        self._bar.update(done - self._bar.n)

    def _print(self, done: int, total: int) -> None:
        self._printed = time.monotonic()
        rate = done / (self._printed - self._started)
        left = (total - done) / rate
        click.echo(
            f"{done:,} of {total:,} {self._unit} ({done / total:.0%}), {rate:,.0f} a second, "
            f"{readable_seconds(left)} left",
            err=True,
        )


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
