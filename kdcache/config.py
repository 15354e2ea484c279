"""Configs: frozen keyword-only dataclasses that round-trip through TOML."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

from kdcache import durable
from kdcache.errors import UsageError


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file as a dict. Raises UsageError for a missing or malformed one."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the config {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


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
