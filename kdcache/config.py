"""Configs: frozen keyword-only dataclasses that round-trip through TOML."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

from kdcache import durable
from kdcache.errors import UsageError
from kdcache.untrusted import MOST_DIGITS, finite_float, read_bytes, refuse_deep

MOST_CONFIG = 2**20  # bytes
_MOST_DOTS = 1000  # tomllib takes minutes for a key of 50,000 parts


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file as a dict: at most 1 MiB, some 64 MiB of memory.

    Raises UsageError for a missing or malformed one, for what is no regular file, and for what no
    config needs: tables nested more than 100 deep, nan and inf, integers of more than 20 digits.
    """
    try:
        data = read_bytes(path, most_bytes=MOST_CONFIG)
        if any(line.count(b".") > _MOST_DOTS for line in data.splitlines()):
            raise ValueError(f"it has a line with more than {_MOST_DOTS:,} dots")
        values = tomllib.loads(data.decode(), parse_float=finite_float)
        refuse_deep(values)
        _refuse_odd(values)
        return values
    except OSError as error:
        raise UsageError(
            f"cannot read the config {path} ({error.strerror}); check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {str(error)[:200]}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise UsageError(f"{path} is no config: {reason}. Give a TOML file of options") from error


def _refuse_odd(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_odd(item)
    elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise ValueError(f"it has an integer of more than {MOST_DIGITS} digits")
    elif isinstance(value, str) and "\0" in value:  # no path and no name can have one
        raise ValueError(f"it has a NUL character in {value[:40]!r}")


def write_toml(path: Path, values: dict[str, Any]) -> None:
    """Writes a TOML file whole or not at all; None values are left out (TOML has none)."""
    import tomli_w

    durable.write_file(path, tomli_w.dumps(without_none(values)).encode())


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Without the keys whose value is None, at every level; tuples become lists."""
    return {
        key: without_none(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in values.items()
        if value is not None
    }


def as_toml_values(config: Any) -> dict[str, Any]:
    """A config dataclass as TOML holds it."""
    return without_none(dataclasses.asdict(config))
