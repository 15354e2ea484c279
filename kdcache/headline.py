"""The one number that a record, a sidecar or a summary is told by."""

from collections.abc import Mapping
from typing import Any

# Key -> what people call it; percent, higher is better.
HEADLINES = {"test_top1": "test top-1", "test_ap": "test AP", "test_pckh": "test PCKh@0.5"}


def headline(record: Mapping[str, Any]) -> tuple[str, float | None]:
    """What a record's number is called, and the number; None where it was not evaluated."""
    for key, name in HEADLINES.items():
        if key in record:
            return name, record[key]
    return HEADLINES["test_top1"], None
