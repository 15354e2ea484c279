"""A Markdown file that holds the last table of every group, between marks; all else is by hand."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from kdcache.durable import write_file


def require_places(path: Path, groups: Iterable[str]) -> None:
    """Raises ClickException, before anything is measured, for a file that could not be written, and
    for marks that leave a place unclear.

    A group without marks is fine: it gets its place at the end of the file.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.ClickException(f"{path}: nothing can be written to {folder}; choose another")
    text = _read(path)
    for group in groups:
        first, last = _marks(group)
        found = text.count(first), text.count(last)
        if found not in ((0, 0), (1, 1)) or text.find(first) > text.find(last):
            raise click.ClickException(
                f"{path}: expected one mark {first!r} and after it one {last!r}, found {found[0]} "
                f"and {found[1]}; mend them, or delete both for a new place at the end"
            )


def put(path: Path, group: str, header: Iterable[str], table: Iterable[str]) -> None:
    """Replaces a group's table; the rest of the file stays byte for byte."""
    first, last = _marks(group)
    text = _read(path) or "# Benchmarks\n"
    if first not in text:
        text = f"{text.rstrip()}\n\n## {group}\n\n{first}\n{last}\n"
    before, rest = text.split(first)
    after = rest.partition(last)[2]
    lines = [first, "```", *header, "```", "", *table, last]
    write_file(path, (before + "\n".join(lines) + after).encode("utf-8", "surrogateescape"))


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""


def _marks(group: str) -> tuple[str, str]:
    return f"<!-- python -m benchmarks --only {group} -->", f"<!-- end of {group} -->"
