"""What is printed of stores, which may be strangers': fit for a terminal, and not too much."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kdcache.errors import readable

if TYPE_CHECKING:
    from kdcache.calibration import Calibration

MOST_LINES = 20


def tell(text: str, *, err: bool = False) -> None:
    """`click.echo` with control characters escaped."""
    click.echo(readable(text), err=err)


def tell_all(lines: Sequence[str], *, err: bool = False) -> None:
    """The first lines, and how many there are more."""
    for line in lines[:MOST_LINES]:
        tell(line, err=err)
    if len(lines) > MOST_LINES:
        tell(f"and {len(lines) - MOST_LINES:,} more; --json lists all", err=err)


def print_calibration(calibration: "Calibration") -> None:
    """What each encoder cost a mentor's targets, and which one it has now."""
    from kdcache.encode.logits import stated_divergences

    tell(
        f"{calibration.mentor} on {calibration.rows:,} targets, mean KL at T = 1, 4, 12 at most "
        f"{calibration.fidelity:g}: {calibration.chosen.name}"
    )
    for one in calibration.measured:
        if one.encoder is None:
            tell(f"  {one.name:<11}{one.reason}")
            continue
        tell(
            f"  {one.name:<11}{one.bytes_a_row:>8.1f} bytes a row, KL "
            + ", ".join(f"{cost:.1e}" for cost in stated_divergences(one.errors))
            + ("" if one.reason is None else "; too much")
        )
