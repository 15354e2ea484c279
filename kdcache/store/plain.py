"""What a document's free texts and descriptions may be: small, and fit to be printed.

They end up in errors, tables and commands to copy, so what no writer writes is refused when read.
"""

from collections.abc import Iterator
from typing import Any

from kdcache.canonical import canonical_json

MOST_TEXT = 500  # characters of one text; a name has 10, a list of versions 20
MOST_DESCRIPTION = 10_000  # characters of canonical JSON


def require_plain(what: str, value: Any) -> None:
    """Raises ValueError for a text, or a description with one, that is long or not printable."""
    if len(canonical_json(value)) > MOST_DESCRIPTION:
        raise ValueError(f"{what} is longer than {MOST_DESCRIPTION:,} characters")
    for text in _texts(value):
        if len(text) > MOST_TEXT or not text.isprintable():
            raise ValueError(
                f"{what} holds a text that is too long or not printable: {text[:60]!a}"
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
