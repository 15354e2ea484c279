"""The shape of the package: imports go one way, and importing it is quick."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kdcache

ROOT = Path(kdcache.__file__).parent

# Each part may import those on the lines above it, never those on its own line or below.
LAYERS = (
    ("errors", "versions"),
    ("canonical", "philox", "homes", "durable", "untrusted", "tasks", "headline"),
    ("config", "devices", "epoch_order", "factories", "memory", "remote", "heatmaps"),
    ("datasets",),
    ("views", "models", "encode", "classroom", "checkpoints"),
    ("mentor_library", "store"),
    ("mentors", "sources", "device_rows"),
    ("calibration", "resident", "wanted"),
    ("windowed",),
    ("stream", "online", "plan", "defaults", "filling", "recalibration"),
    ("pixels", "row_checks", "two_stores", "moving"),
    ("running",),
    ("loader", "precompute", "exporting", "copying", "inspection", "differing"),
    ("card",),
    ("share", "adopting"),
    ("reusing",),
    ("train",),
    ("verification", "against", "pictures", "keypoint_accuracy"),
    ("demo",),
    ("cli",),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imported_parts(file: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
            if node.module == "kdcache":
                names = [f"kdcache.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("kdcache.")}
    return parts


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_part_has_a_layer() -> None:
    parts = {part_of(file) for file in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert parts == set(LEVEL)


@pytest.mark.parametrize(
    "file",
    [f for f in sorted(ROOT.rglob("*.py")) if f.parent != ROOT or not f.name.startswith("__")],
    ids=lambda f: str(f.relative_to(ROOT)),
)
def test_imports_go_one_way(file: Path) -> None:
    here = part_of(file)
    for part in imported_parts(file) - {here}:
        assert LEVEL[part] < LEVEL[here], f"{file.name} in {here} imports {part}"


def test_every_public_name_is_there_and_none_is_a_modules_name() -> None:
    modules = {part_of(file) for file in ROOT.rglob("*.py")}
    for name in kdcache.__all__:
        value = getattr(kdcache, name)
        if not hasattr(value, "__path__") and name != "errors":
            assert name not in modules
            assert value.__doc__, f"{name} has no docstring"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "what",
    ["import kdcache", "from kdcache.cli import main", "from kdcache.share import list_hub"],
)
def test_importing_loads_nothing_heavy(what: str) -> None:
    loaded = run_python(f"import sys; {what}; print(*sys.modules)").split()
    assert not {"torch", "torchvision", "zarr", "numpy"} & set(loaded)


def test_import_takes_under_half_a_second() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run_python("import kdcache")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5
