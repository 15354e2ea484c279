"""People of a team, each with a home of their own, who use the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdcache.cli import main
from tests.servers import Server


@dataclass(frozen=True)
class Home:
    """One person's: `path` is their $KDCACHE_HOME, `environment` what else they set."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: object, codes: Container[int] = (0,)) -> str:
        """`kdcache ...` in this process; its output, once it ended with one of these exit codes."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self._environment().items():
                patched.setenv(name, value)
            result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        assert result.exit_code in codes, result.output
        assert "Traceback" not in result.output
        return result.output

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """`kdcache ...` as a process of its own, which can be killed."""
        return subprocess.Popen(
            [sys.executable, "-m", "kdcache", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self._environment(), "PYTHONUNBUFFERED": "1"},
        )

    def _environment(self) -> dict[str, str]:
        return {"KDCACHE_HOME": str(self.path), "OMP_NUM_THREADS": "1", **self.environment}


def client_of(server: Server, path: Path) -> Home:
    """Somebody who can reach a server."""
    return Home(path, dict(server.environment))


def same_run(one: Path, other: Path) -> bool:
    """Whether two students have the same weights and the same metrics, but for seconds."""
    weights = [(run / "student.safetensors").read_bytes() for run in (one, other)]
    metrics = [list(_metrics(run)) for run in (one, other)]
    assert metrics[0]
    return weights[0] == weights[1] and metrics[0] == metrics[1]


def _metrics(run: Path) -> Iterable[dict[str, Any]]:
    for line in (run / "metrics.jsonl").read_text().splitlines():
        yield {name: value for name, value in json.loads(line).items() if name != "seconds"}
