"""What this process may still take, from files laid out as the kernel's."""

from pathlib import Path

import pytest

from kdcache.memory import available_memory, gigabytes

GIB = 2**30


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    8388608 kB\nSwapFree: 5 kB\n"}
V2 = {"proc/self/cgroup": "0::/batch/job\n"}


def v2(folder: str, limit: object, usage: int, inactive: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{folder}memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}memory.current": f"{usage}\n",
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 5\ninactive_file {inactive}\nfile 7\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 8 * GIB),
        ({**MACHINE, **V2, **v2("batch/job/", "max", GIB)}, 8 * GIB),
        ({**MACHINE, **V2, **v2("batch/job/", 4 * GIB, GIB)}, 3 * GIB),
        ({**MACHINE, **V2, **v2("batch/job/", 4 * GIB, 3 * GIB, GIB)}, 2 * GIB),
        ({**MACHINE, **V2, **v2("batch/job/", "max", 1), **v2("batch/", 2 * GIB, GIB)}, GIB),
        ({**MACHINE, **V2, **v2("", 5 * GIB, GIB)}, 4 * GIB),  # a container sees its own as the top
        ({**MACHINE, **V2, **v2("batch/job/", GIB, 2 * GIB)}, 0),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "3:cpu:/x\n5:memory:/job\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{6 * GIB}\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {GIB}\n",
            },
            5 * GIB,
        ),
    ],
)
def test_the_least_of_machine_and_control_groups(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert available_memory(lay_out(tmp_path, files)) == expected


def test_here_it_is_between_nothing_and_a_petabyte() -> None:
    found = available_memory()
    assert found is None or 2**20 < found < 2**50


def test_sizes_are_readable() -> None:
    assert (gigabytes(15_374_004_000), gigabytes(2.5e6)) == ("15.37 GB", "2.50 MB")
