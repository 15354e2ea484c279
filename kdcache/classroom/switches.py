"""Checks of a method's switches: each error says argument, rule and received value.

Switches come from Python, TOML and the command line alike, so types are checked as well: a bool is
not a number here, and "12" is not 12.
"""

import math
from collections.abc import Sequence


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """`value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {_one_of(choices)}, got {value!r}")


def check_number(
    name: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float = math.inf,
    above: bool = False,
    or_else: Sequence[str] = (),
) -> None:
    """`value` is finite and in [minimum, maximum]; `above`: strictly greater than the minimum.

    `or_else` lists what is accepted beside a number; it only completes the message.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan  # type: ignore[arg-type]  # any other: refused
    in_range = (number > minimum if above else number >= minimum) and number <= maximum
    if in_range and math.isfinite(number):
        return
    bound = f"{'>' if above else '>='} {minimum:g}"
    upper = "" if math.isinf(maximum) else f" and <= {maximum:g}"
    beside = f"{_one_of(or_else)} or " if or_else else ""
    raise ValueError(f"{name} must be {beside}a finite number {bound}{upper}, got {value!r}")


def check_whole(name: str, value: object, *, minimum: int = 0) -> None:
    """`value` is an int of at least `minimum`."""
    if type(value) is not int or value < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}, got {value!r}")


def check_bool(name: str, value: object) -> None:
    """`value` is True or False, not something that counts as one."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def _one_of(choices: Sequence[str]) -> str:
    return " or ".join(repr(choice) for choice in choices)
