"""What every hostile checkpoint must meet."""

import time
from pathlib import Path

import pytest

from kdcache.checkpoints import read_state_dict
from kdcache.errors import CheckpointError


def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, data: bytes, message: str
) -> Path:
    """One error with the message, soon, and not a file more: the baits make `trace`."""
    path = tmp_path / "in" / f"net{suffix}"
    path.parent.mkdir()
    path.write_bytes(data)
    monkeypatch.chdir(path.parent)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 600
    assert time.monotonic() - started < 10
    assert [entry.name for entry in tmp_path.rglob("*")] == ["in", path.name]
    return path
