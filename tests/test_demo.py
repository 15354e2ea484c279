"""The demo: every line of its table is real, and it goes on where it was stopped."""

from pathlib import Path

import pytest

from kdcache import demo
from kdcache.errors import Stopped


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MENTOR_EPOCHS", 2), ("EPOCHS", 2), ("VIEWS", 2), ("SAMPLES", 200)):
        monkeypatch.setattr(demo, name, value)


def test_it_tells_a_table_of_what_it_made(tmp_path: Path) -> None:
    told: list[str] = []
    rows = demo.run_demo(tmp_path / "demo", seed=3, tell=told.append)
    assert [row.what for row in rows] == [
        "mentor r20, labels only",
        "mentor r14, labels only",
        "store, 2 mentors x 2 views",
        "student r8, ce",
        "student r8, average",
        "student r8, classroom",
    ]
    assert all(row.path.exists() and row.bytes > 0 and row.seconds > 0 for row in rows)
    assert rows[2].bytes == 2 * 2 * 200 * 10 * 2
    for row in rows:
        assert any(line.startswith(row.what) and str(row.path) in line for line in told)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def silent(line: str) -> None:
        pass

    whole = demo.run_demo(tmp_path / "whole", tell=silent)
    polls = iter(range(9))
    with pytest.raises(Stopped):
        demo.run_demo(tmp_path / "demo", should_stop=lambda: next(polls, None) is None, tell=silent)
    resumed = demo.run_demo(tmp_path / "demo", tell=silent)
    assert [row.accuracy for row in resumed] == [row.accuracy for row in whole]
