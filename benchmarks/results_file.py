"""A Markdown file that holds the last table of every group, between marks; all else is by hand."""

from collections.abc import Iterable
from pathlib import Path

import click


def require_places(path: Path, groups: Iterable[str]) -> None:
    """Raises ClickException, before anything is measured, for marks that leave a place unclear.

    A group without marks is fine: it gets its place at the end of the file.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for group in groups:
        first, last = _marks(group)
        found = text.count(first), text.count(last)
        if found not in ((0, 0), (1, 1)) or text.find(first) > text.find(last):
            raise click.ClickException(
                f"{path}: expected one line {first!r} and after it one line {last!r}, found "
                f"{found[0]} and {found[1]}; mend them, or delete both for a new place at the end"
            )
    if not path.parent.is_dir():
        raise click.ClickException(f"{path.parent} is no folder; make it first")


def put(path: Path, group: str, header: Iterable[str], table: Iterable[str]) -> None:
    """Replaces a group's table."""
    first, last = _marks(group)
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    if first not in text:
        text = f"{text.rstrip()}\n\n## {group}\n\n{first}\n{last}\n"
    before, rest = text.split(first)
    after = rest.partition(last)[2]
    lines = [first, "```", *header, "```", "", *table, last]
    path.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def _marks(group: str) -> tuple[str, str]:
    return f"<!-- python -m benchmarks --only {group} -->", f"<!-- end of {group} -->"
