"""The README's own code runs, in a plain PyTorch loop, and learns."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.datasets import open_dataset
from kdcache.mentors import load_mentor
from kdcache.train.mentor import library_checkpoint
from tests.datasets.pose_files import small_poses

README = (Path(__file__).parents[1] / "README.md").read_text()
ROOT = Path(kdcache.__file__).parent


def test_the_lines_for_ones_own_loop(tmp_path: Path) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    for _ in kdcache.train_mentor("r14", dataset="digits", epochs=6, samples=500):
        pass
    dataset = open_dataset("digits", samples=500)
    mentor = load_mentor("r14", dataset)
    kdcache.precompute_targets(dataset, [mentor], store=tmp_path / "store", views=6)
    network = kdcache.build_network("r8", 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    test = open_dataset("digits", "test")

    def top1() -> float:
        cpu = torch.device("cpu")
        return kdcache.evaluate_network(network, test, test.preprocessing, cpu).top1

    before = top1()
    exec(
        code,
        {
            "dataset": dataset,
            "store": tmp_path / "store",
            "epochs": 6,
            "network": network,
            "optimizer": optimizer,
        },
    )
    assert top1() > before + 30


def test_the_lines_for_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but with smaller networks and views, and one view."""
    _, code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.setenv("KDCACHE_DATA", str(small_poses(tmp_path / "data", people=40)))
    monkeypatch.chdir(tmp_path)
    for name in ("lp18", "mbpose"):
        network = kdcache.build_network(name, 17, seed=1)
        save_weights(library_checkpoint(name, "coco-keypoints"), network, {})
    code = code.replace('"sb50", "sb18"', '"lp18", "mbpose"')
    smaller = "views=1, recipe=kdcache.views.PoseAffine(height=64, width=32)"
    found: dict[str, Any] = {
        "kdcache": kdcache,
        "student": kdcache.build_network("mbpose", 17, seed=0),
    }
    exec(code.replace("views=10", smaller), found)
    assert found["batch"].heatmaps.shape == (32, 2, 17, 16, 8)
    assert found["out"].joints.visible_BJ.any()
    assert found["store"].mentor("lp18").manifest.run_shape["flip_test"] is True


def test_every_command_it_shows_exists_with_those_options() -> None:
    commands = re.findall(r"^\$ kdcache ([\w-]+)(.*?)(?:#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) >= 7
    for name, rest in commands:
        known = {option for p in main.commands[name].params for option in p.opts}
        used = set(re.findall(r"--[\w-]+", rest))
        assert used <= known, f"kdcache {name} has no {used - known}"


def test_the_captioned_tree_names_every_part() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    for path in sorted(ROOT.iterdir()):
        if path.name.startswith("__") and path.name != "__init__.py":
            continue
        assert path.name in tree, f"{path.name} is not in the captioned tree"
