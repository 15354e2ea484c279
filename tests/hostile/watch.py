"""What the process does while a hostile store is open: code, files, network, time and memory.

Linux only: memory is read from /proc.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SECONDS = 5.0  # of the processor, for any one way into any one store, plus
SECONDS_A_MIB = 0.5  # of the store's files (JSON of many records)
WAITING = 2.0  # times as much of the clock: nothing in a store may be waited for
MOST_MEMORY = 200 * 2**20  # bytes, plus
MEMORY_FACTOR = 64  # times the size of the store's files (JSON; a chunk needs less)
ADDRESS_SPACE = 2**30  # more than this asked for at once fails

_RUNS_CODE = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("subprocess.Popen", "pickle.find_class", "ctypes.dlopen", "code.__new__", "os.kill"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request"),
)
_CHANGES = {
    "os.mkdir": 1, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
_FOLDERS = {"os.mkdir": 2, "os.rmdir": 1, "os.remove": 1, "os.rename": 2}  # where a dir_fd is told
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooLong(BaseException):
    """A way into a store did not come back in time."""


class Watch:
    """One for the process; an audit hook stays until the end."""

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] = ()
        self._on = False
        self.violations: list[str] = []
        signal.signal(signal.SIGALRM, self._too_long)
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self, allowed: list[Path], size: int) -> Iterator[list[str]]:
        """What must not happen, as text, is in the list afterwards.

        `allowed`: folders that may be written to. `size`: of the store's files.
        """
        self._allowed = tuple(os.path.realpath(folder) for folder in allowed)
        found: list[str] = []
        self.violations = found
        before, cpu = _reset_peak(), time.process_time()
        most = MOST_MEMORY + MEMORY_FACTOR * size
        most_seconds = SECONDS + SECONDS_A_MIB * size / 2**20
        signal.setitimer(signal.ITIMER_REAL, WAITING * most_seconds)
        self._on = True
        try:
            yield found
        except TooLong:
            found.append(f"not back after {WAITING * most_seconds:.1f} s")
        finally:
            self._on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        taken, seconds = _memory("VmHWM") - before, time.process_time() - cpu
        if taken > most:
            found.append(f"took {taken / 2**20:.0f} MiB, at most {most / 2**20:.0f} are promised")
        if seconds > most_seconds:
            found.append(f"took {seconds:.1f} s of the processor")

    def limit_memory(self) -> None:
        """Whoever asks for much at once gets a MemoryError."""
        most = _memory("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def _too_long(self, number: int, frame: FrameType | None) -> None:
        raise TooLong

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in _RUNS_CODE:
            self.violations.append(f"{event} {str(arguments)[:200]}")
        elif event == "import" and "trap" in str(arguments[0]):
            self.violations.append(f"import {arguments[0]}")
        elif event == "exec" and isinstance(arguments[0], CodeType):
            self._require_library(arguments[0].co_filename)
        elif event == "open" and _is_write(arguments):
            self._require_inside(event, arguments[0], follow=True)
        elif event in _CHANGES:
            for number, path in enumerate(arguments[: _CHANGES[event]]):
                folder = arguments[at + number] if (at := _FOLDERS.get(event)) else -1
                self._require_inside(event, _below(folder, path), follow=False)

    def _require_library(self, file: str) -> None:
        if not file.startswith((sys.prefix, sys.base_prefix, "<frozen", "<string>")):
            self.violations.append(f"exec of {file}")

    def _require_inside(self, event: str, path: Any, *, follow: bool) -> None:
        if isinstance(path, int):
            return  # a descriptor; opening it was seen
        text = os.fsdecode(path)
        real = os.path.realpath(text)
        if not follow:  # a link is itself changed, not what it leads to
            real = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
        if not any(real == folder or real.startswith(folder + os.sep) for folder in self._allowed):
            self.violations.append(f"{event} {real[:300]}")


def _below(folder: int, path: Any) -> Any:
    """A path as it is meant: `folder` is the descriptor that it is relative to, or -1."""
    if folder == -1 or isinstance(path, int):
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))


def _is_write(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(flags & _WRITES) if isinstance(flags, int) else any(c in mode for c in "wax+")


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)
