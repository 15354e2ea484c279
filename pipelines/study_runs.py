"""The filter study's runs: what one is, and the file that has a line for each finished one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the study is."""

    mentors: tuple[str, ...]
    samples: int
    views: int
    epochs: int
    seeds: tuple[int, ...]
    test_samples: int | None = None  # None: all of them


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student: what its mentors are, how it is taught, from which seed, on how many views."""

    setting: str
    arm: str
    seed: int
    samples: int
    views: int
    epochs: int


def require_same_targets(
    there: list[dict[str, Any]], fingerprint: str, size: Size, runs_file: Path
) -> None:
    """Raises UsageError where finished runs of this size were taught other views."""
    others = {line["targets"] for line in there if is_of_size(line, size)} - {fingerprint}
    if others:
        raise UsageError(
            f"{runs_file} holds runs of the views {min(others)[:16]}, the store is of "
            f"{fingerprint[:16]}: give the store they are of with --store, or another --out"
        )


def append_line(runs_file: Path, line: str) -> None:
    """One more line, after a cut one too; several may append at once."""
    runs_file.parent.mkdir(parents=True, exist_ok=True)
    torn = runs_file.exists() and not runs_file.read_bytes().endswith(b"\n")
    with runs_file.open("a") as lines:
        lines.write("\n" * torn + line + "\n")


def read_runs(runs_file: Path) -> Iterator[dict[str, Any]]:
    """The finished runs; a line that was cut short by a stop is not one."""
    if not runs_file.exists():
        return
    for line in runs_file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def run_of(line: dict[str, Any]) -> Run:
    return Run(**{name: line[name] for name in Run.__dataclass_fields__})


def is_of_size(line: dict[str, Any], size: Size) -> bool:
    return (line["samples"], line["epochs"]) == (size.samples, size.epochs)
