"""What the numbers were measured on: results without hardware, versions and n say little."""

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version

import torch

from kdcache.versions import library_versions


def describe(repeats: int, others: Sequence[str] = ()) -> Iterator[str]:
    """The lines above the table. `others`: packages that ours is compared with, by name."""
    ours = library_versions()
    others = [name for name in others if name not in ours]
    versions = " ".join(f"{name} {found}" for name, found in ours.items())
    yield f"kdcache benchmarks, {date.today().isoformat()}"
    yield (
        f"hardware  {cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads,"
        f" {_memory()}, load average {_load()} at the start"
    )
    yield f"versions  {versions}, {platform.system()}"
    if others:
        yield f"others    {' '.join(f'{name} {_version(name)}' for name in others)}"
    yield (
        f"n         {repeats} interleaved rounds (a row's own n where it differs) after a warm-up; "
        "medians with their interval of 95% confidence"
    )


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{total / 2**30:.0f} GiB"


def _load() -> str:
    try:
        return f"{os.getloadavg()[0]:.2f}"
    except (AttributeError, OSError):
        return "unknown"
