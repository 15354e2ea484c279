"""`kdcache prune` says what goes, and asks."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcache.cli import main
from kdcache.store import open_store, writing
from tests.store.small import make_store


def kdcache_(*words: object, code: int = 0, answer: str | None = None) -> str:
    done = CliRunner().invoke(main, ["prune", *map(str, words)], input=answer)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store", views=4, mentors=("r8", "r20")).root


def test_it_tells_then_drops(root: Path) -> None:
    output = kdcache_(root, "--views", "1:3", "--dry-run")
    assert "mentor r8, view 1, 2: 4 files" in output
    assert open_store(root).usable_views(["r8"]) == [0, 1, 2, 3]
    output = kdcache_(root, "--views", "1:3", "--yes")
    assert " freed in " in output
    assert open_store(root).usable_views(["r8", "r20"]) == [0, 3]
    assert "with all its targets" in kdcache_(root, "--mentors", "r20", "--yes")
    assert open_store(root).mentors == ["r8"]


def test_it_asks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "give --yes" in kdcache_(root, "--mentors", "r20", code=2)
    monkeypatch.setattr(sys.modules["kdcache.cli.prune"], "_is_terminal", lambda: True)
    output = kdcache_(root, "--mentors", "r20", answer="n\n")
    assert f"Drop this from {root}? [y/N]" in output
    assert "nothing was dropped" in output
    assert open_store(root).mentors == ["r20", "r8"]
    kdcache_(root, "--mentors", "r20", answer="y\n")
    assert open_store(root).mentors == ["r8"]


def test_wrong_use(tmp_path: Path, root: Path) -> None:
    assert "say what to drop" in kdcache_(root, "--yes", code=2)
    assert "has no mentor 'r56'" in kdcache_(root, "--mentors", "r56", "--yes", code=2)
    for words in (["prune", "http://x/y", "--views", "1:2"], ["card", "http://x/y"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2
        assert "can be read, not written. Name a local or mounted folder" in done.output
        assert "--store" not in done.output
    assert "can be read, not written" in kdcache_("http://x/y", "--views", "1:2", code=2)
    with writing(root):
        assert "another command writes" in kdcache_(root, "--views", "1:2", "--yes", code=2)
    kdcache_(root, "--mentors", "r8,r20", "--yes")
    assert "has no mentor 'r8'; it has none" in kdcache_(root, "--mentors", "r8", code=2)


@pytest.mark.parametrize("views", ["3", "0", "77", "-1"])
def test_a_lone_number_of_views_drops_nothing(root: Path, views: str) -> None:
    output = kdcache_(root, "--views", views, "--yes", code=2)
    assert f"nothing was dropped: --views {views} may mean two things; say" in output
    assert ("say 3:4 for view 3, or 0:3 for the first 3" in output) == (views == "3")
    assert open_store(root).usable_views(["r8", "r20"]) == [0, 1, 2, 3]


def test_options_may_stand_in_a_file(tmp_path: Path, root: Path) -> None:
    config = tmp_path / "prune.toml"
    config.write_text("views = [3]\ndry-run = true\n")
    assert "mentor r8, view 3:" in kdcache_(root, "--config", config)
    assert open_store(root).num_views == 4
    config.write_text("as-json = true\n")
    for words in (["list"], ["diff", root, root]):
        done = CliRunner().invoke(main, [*map(str, words), "--config", str(config)])
        assert done.exit_code == 0, done.output
        assert done.output.startswith("{")
    config.write_text("show = true\n")
    done = CliRunner().invoke(main, ["card", str(root), "--config", str(config)])
    assert done.exit_code == 0, done.output
    assert not (root / "README.md").exists()
