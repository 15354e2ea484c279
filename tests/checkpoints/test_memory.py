"""Memory is bounded by the file's size, whatever the file claims."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.checkpoints.made import MIB, safetensors_bytes, torch_bytes, with_pickle, zipped

AMPLE = 256 * MIB
# Writing 5 there sets the peak back to what is held now (Linux).
MEASURE = r"""
import re, sys, torch, safetensors.torch
from kdcache.checkpoints import read_state_dict
from kdcache.errors import CheckpointError

def status(name):
    return int(re.search(name + r":\s*(\d+)", open("/proc/self/status").read())[1])

for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")
    start = status("VmRSS")
    try:
        found = read_state_dict(path)
    except CheckpointError:
        found = None
    print((status("VmHWM") - start) * 1024, found is not None)
"""
HEADER = '{{"w": {{"dtype": "F32", "shape": [{}], "data_offsets": [0, {}]}}}}'
MAKERS: dict[str, Callable[[], bytes]] = {
    "dicts.pth": lambda: with_pickle(b"(" + b"}" * 999_990 + b"t"),
    "memo.pth": lambda: with_pickle(b"]\x94" * 499_990),
    "directory.pth": lambda: zipped({f"a/{number}": b"" for number in range(60_000)}),
    "header.safetensors": lambda: safetensors_bytes(
        json.dumps({str(n): {} for n in range(340_000)}, separators=(",", ":")).encode()
    ),
    "expanded.pth": lambda: torch_bytes({str(n): torch.ones(1).expand(2**24) for n in range(99)}),
    "large.pth": lambda: torch_bytes({"a": torch.ones(8 * MIB)}),
    "large.th": lambda: torch_bytes({"a": torch.ones(8 * MIB)}, old=True),
    "large.safetensors": lambda: safetensors_bytes(
        HEADER.format(8 * MIB, 32 * MIB).encode(), bytes(32 * MIB)
    ),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in MAKERS]
    for path, make in zip(paths, MAKERS.values(), strict=True):
        path.write_bytes(make())
    run = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    for path, line in zip(paths, done.splitlines(), strict=True):
        peak, loaded = line.split()
        assert (loaded == "True") == path.name.startswith("large")
        assert int(peak) < 3 * path.stat().st_size + AMPLE, path.name
