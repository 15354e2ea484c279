"""Runs batches of hostile stores in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def try_stores(
    folder: Path, cases: Iterable[str], groups: Sequence[str], *, timeout: float
) -> dict[str, dict[str, Any]]:
    """What `trial` says of each case; a case that ended its process has that as its fault."""
    found: dict[str, dict[str, Any]] = {}
    waiting, started = list(cases), 0
    while waiting:
        started += 1
        output = run_module("trial", folder / str(started), *groups, lines=waiting, timeout=timeout)
        lines = [json.loads(line) for line in output.stdout.splitlines() if line.startswith("{")]
        assert lines, f"the good store was not made: {output.stderr[-3000:]}"
        found |= {line["case"]: line for line in lines if line["case"] is not None}
        waiting = waiting[len(lines) - 1 :]
        if waiting:
            fault = f"the process ended with {output.returncode}: {output.stderr[-1000:]}"
            found[waiting.pop(0)] = {"faults": [fault], "refused": {}}
    return found


def run_module(
    name: str, *arguments: object, lines: Iterable[str] = (), timeout: float
) -> "subprocess.CompletedProcess[str]":
    """`python -m tests.hostile.NAME` with one thread and one memory arena."""
    return subprocess.run(
        [sys.executable, "-m", f"tests.hostile.{name}", *map(str, arguments)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
    )
