"""A server that is a program: found, started, waited for, killed with all its children."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.servers.proxy import Proxy

_STARTING = 20.0  # seconds a server may take to listen


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def program(name: str, where_from: str) -> str:
    """A program's path; the test is skipped where there is none."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"the program {name} is missing: {where_from}")
    return found


class Server(ABC):
    """Its files lie in `folder`, which `url` names. `place`: a folder for all that it needs.

    `rate`: bytes a second in each direction, through a `Proxy`; `proxied`: one without limit.
    """

    kind: str

    def __init__(self, place: Path, *, rate: float | None = None, proxied: bool = False) -> None:
        self.place = place
        self.folder = place / "served"
        self.folder.mkdir(parents=True)
        self.environment: dict[str, str] = {}
        self.port = free_port()
        self.proxy = Proxy(self.port, rate) if proxied or rate is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port for clients."""
        return f"127.0.0.1:{self.port if self.proxy is None else self.proxy.port}"

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def command(self) -> list[str]: ...

    def start(self) -> None:
        """Starts it (again), on the same port and folder, and waits until it listens."""
        log = self.place / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + _STARTING
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.kind} does not start: {log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to it and to all its children."""
        if self._process is not None:
            main = self._process.pid
            _signal(main, signal.SIGSTOP)  # lest it starts children anew, as nginx does
            for number in [*_descendants(main), main]:
                _signal(number, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self.proxy is not None:  # what it had already sent is lost, as when a machine dies
            self.proxy.cut()

    def close(self) -> None:
        self.kill()
        if self.proxy is not None:
            self.proxy.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _descendants(process: int) -> list[int]:
    """Its children and theirs: sshd's leave its process group."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
