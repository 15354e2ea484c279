"""Pipelines at smoke size, and the shipped configs."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcache.config import read_toml
from kdcache.models import long_name
from kdcache.train import TrainConfig
from pipelines import cached_equals_online

ROOT = Path(__file__).parents[1]


def test_cached_equals_online(tmp_path: Path) -> None:
    command = ["--smoke", "--out", str(tmp_path / "run"), "--seed", "3"]
    result = CliRunner().invoke(cached_equals_online.main, command)
    assert result.exit_code == 0, result.output
    assert "losses of 2 epochs equal bit for bit: True" in result.output
    assert "final weights equal bit for bit: True" in result.output
    assert "every float16 row within the recorded bound: True" in result.output
    again = CliRunner().invoke(cached_equals_online.main, command)
    assert again.exit_code == 0
    assert "epoch" not in again.output.replace("epochs", "")  # everything was reused


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configs_are_valid_and_headed(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("hardware" in line for line in header)
    assert any("result" in line for line in header)
    values = read_toml(path)
    config = TrainConfig(**{**values, "mentors": tuple(values.get("mentors", ())) or None})
    assert long_name(config.student)
