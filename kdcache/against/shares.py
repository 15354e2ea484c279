"""Sums as shares: None where nothing was counted."""

from collections.abc import Sequence

HARDLY = 0.01  # a mentor active on a smaller share hardly teaches


def share(value: float, count: float) -> float | None:
    """`value` of each of `count`."""
    return value / count if count else None


def shares(values: Sequence[float], counts: Sequence[float]) -> list[float | None]:
    """Pair by pair."""
    return [share(value, count) for value, count in zip(values, counts, strict=True)]
