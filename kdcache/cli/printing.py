"""What is printed of stores, which may be strangers': fit for a terminal, and not too much."""

from collections.abc import Sequence

import click

from kdcache.errors import readable

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
