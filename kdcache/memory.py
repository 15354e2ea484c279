"""How much memory this process may still take: what the machine has left, and its control groups.

On Linux the least of `MemAvailable` and what each control group above this process leaves (what
containers and batch systems set); elsewhere all of the machine's memory, where it tells.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_LIMIT_FILES = (  # version 2 of control groups, then version 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes, without taking anything from others; None where nothing tells.

    `root`: the folder with `proc` and `sys`.
    """
    found = [*_machine(root), *_control_groups(root)]
    return max(0, min(found)) if found else None


def gigabytes(count: float) -> str:
    """1.23 GB; MB below one."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _machine(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
            return
    try:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return


def _control_groups(root: Path) -> Iterator[int]:
    """What each group from this process's own to the top leaves it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            yield from _left_in(mount / part)


def _left_in(group: Path) -> Iterator[int]:
    for limit_file, usage_file, reclaimable in _LIMIT_FILES:
        limit, usage = _text(group / limit_file).strip(), _text(group / usage_file).strip()
        if not (limit.isdecimal() and usage.isdecimal()):
            continue  # not there, or no limit ("max")
        freed = 0  # cached files that can be dropped count as usage
        for line in _text(group / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == reclaimable and value.strip().isdecimal():
                freed = int(value)
        yield int(limit) - int(usage) + freed


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
