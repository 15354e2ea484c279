"""Every error a user can meet. Each says what was expected, what arrived and what to do next.

`exit_code` is what the command line returns: 1 a check or a run failed, 2 wrong usage or input.
"""

import difflib
from collections.abc import Iterable, Mapping

MOST_MESSAGE = 10_000  # characters; files of strangers can make texts of any length
_MOST_CELL = 200
_MOST_ROWS = 40


class KdcacheError(Exception):
    """Base of all errors that are the user's to read; the command line prints them bare.

    Whatever files of strangers put into it, its text is fit for a terminal (`readable`).
    """

    exit_code = 2

    def __str__(self) -> str:
        return readable(super().__str__())


class UsageError(KdcacheError, ValueError):
    """An option or argument is wrong or contradicts another."""


class DatasetError(KdcacheError):
    """A dataset is missing, broken, or not what was asked for."""


class CheckpointError(KdcacheError):
    """A network's weights are missing, unsafe to read, or belong to another network."""


class StoreError(KdcacheError):
    """A store cannot be opened, or is of a format this version cannot read."""


class StoreMismatch(StoreError):
    """A store was made from something else than what it is used with."""


class MissingTargets(StoreError):
    """A mentor, view or sample is not in the store."""


class DamagedTargets(StoreError):
    """Stored bytes differ from what was committed."""

    exit_code = 1


class Unreachable(StoreError):
    """A store at a URL cannot be read now: the network or the server failed, again and again."""

    exit_code = 1


class NoSpace(StoreError):
    """What was to be written at a URL or in a shared folder has no room there."""

    exit_code = 1


class ReplayMismatch(KdcacheError):
    """Replayed views differ from the views the mentors saw."""

    exit_code = 1


class RunFailed(KdcacheError):
    """A run cannot go on: its numbers are no longer finite, or a mentor's never were."""

    exit_code = 1


class Stopped(KdcacheError):
    """A run stopped because it was asked to; what was done is kept and the run can go on.

    The command line exits with 128 + the signal's number.
    """

    exit_code = 130


def readable(text: str, most: int = MOST_MESSAGE) -> str:
    """Text for a terminal: at most `most` characters, control characters escaped as Python does.

    Printed raw, a name out of a file could move the cursor, or hide a part of a message.
    """
    if len(text) > most:
        text = f"{text[: most - 100]} ... ({len(text):,} characters)"
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return escaped if len(escaped) <= most else f"{escaped[: most - 100]} ..."


def unknown_name(kind: str, given: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name nobody knows: the nearest known names first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3)
    did_you_mean = f" Did you mean {' or '.join(near)}?" if near else ""
    tail = f" {hint}" if hint else ""
    return UsageError(
        f"unknown {kind} {given!r:.100}.{did_you_mean} Known: {', '.join(names)}.{tail}"
    )


def differences(
    left: Mapping[str, object], right: Mapping[str, object], ignored: Iterable[str] = ()
) -> dict[str, tuple[object, object]]:
    """The fields in which two descriptions differ, with both values ("-" where one has none)."""
    return {
        key: (left.get(key, "-"), right.get(key, "-"))
        for key in dict.fromkeys([*left, *right])
        if key not in ignored and left.get(key) != right.get(key)
    }


def both_sides(left: str, right: str, differences: Mapping[str, tuple[object, object]]) -> str:
    """A readable table of differing fields: name, the left side's value, the right side's.

    Cells and rows are limited: both may come from a stranger, and every cell is as wide as the
    widest.
    """
    listed = list(differences.items())
    cells = [(name, str(a), str(b)) for name, (a, b) in listed[:_MOST_ROWS]]
    if len(listed) > _MOST_ROWS:
        cells.append((f"and {len(listed) - _MOST_ROWS:,} more", "", ""))
    rows = [("", left, right)]
    rows += [(a[:_MOST_CELL], b[:_MOST_CELL], c[:_MOST_CELL]) for a, b, c in cells]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
