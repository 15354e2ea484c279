"""`kdcache merge` and `pull`: what they print, how they end, and that what they say to run runs."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.cli.options import ViewChoice
from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor
from kdcache.store import TargetStore, open_store, verify_store
from tests.remote.serving import serving
from tests.test_precompute_kinds import flip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 samples in 4 blocks; no waiting between attempts."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 32)
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 4)
    monkeypatch.delenv("KDCACHE_HUB", raising=False)


@pytest.fixture
def source(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    """Two views of two mentors, with features."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "served" / "store", views=2, features=True
    )


def kdcache_(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.output


def test_a_part_is_pulled_and_what_pull_says_to_run_runs(
    tmp_path: Path, source: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(source.root.parent) as server:
        url = f"{server.url}/store"
        output = kdcache_("pull", url, "--mentors", "r8", "--views", "1:2", "--dry-run")
        assert "mentor r8: 4 chunks" in output
        assert "mentor r8 features: 4 chunks" in output
        assert server.chunks == []
        output = kdcache_("pull", url, "--mentors", "r8", "--views", "1:2")
        assert "copied 8 chunks" in output
        assert "warning: " not in output or "near chance" in output
        (line,) = re.findall(r"^  (kdcache train-student .*)$", output, flags=re.MULTILINE)
        monkeypatch.setenv("KDCACHE_HUB", url)
        again = kdcache_("pull", "--mentors", "r8", "--views", "1")
    assert "copied 4 chunks" not in again
    assert "copied 8 chunks" in again  # view 0
    words = shlex.split(line)[1:]
    root = Path(words[words.index("--store") + 1])
    assert root.parent == tmp_path / "home" / "stores"
    assert "--dataset" in words
    trained = kdcache_(
        *words, "--student", "r8", "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run"
    )
    assert "test top-1" in trained
    assert verify_store(root).ok


def test_merging_two_parts(tmp_path: Path, source: TargetStore) -> None:
    parts = [tmp_path / name for name in ("one", "two")]
    for part, mentor in zip(parts, ("r8", "r14"), strict=True):
        kdcache_("merge", source.root, part, "--mentors", mentor)
    output = kdcache_("merge", *parts)
    assert "16 chunks (" in output
    assert open_store(parts[1]).usable_views(["r8", "r14"], kinds=["logits", "features"]) == [0, 1]
    assert "nothing was copied" in kdcache_("merge", *parts)
    assert "is sound" in kdcache_("verify", parts[1])


def test_damage_is_told_with_its_healing(tmp_path: Path, source: TargetStore) -> None:
    flip(source.mentor("r8").array.chunk(1, 3))
    output = kdcache_("merge", source.root, tmp_path / "new", code=1)
    assert "damaged in the source: mentor r8, view 1, block 3" in output
    assert "make it anew with:\n  kdcache precompute --store" in output
    with serving(source.root.parent) as server:
        output = kdcache_("pull", f"{server.url}/store", "--store", tmp_path / "new", code=1)
    assert "tell its owner" in output
    assert "# STORE: the folder behind" in output
    assert "kdcache train-student --store" in output
    assert len(open_store(tmp_path / "new").mentor("r8").commits) == 7


def test_what_is_not_complete_is_said(tmp_path: Path, source: TargetStore) -> None:
    stored = source.mentor("r14")
    (stored.array.commits / stored.commits[1, 0].file_name).unlink()
    stored.array.commit_index.unlink()
    output = kdcache_("pull", f"file://{source.root}", "--store", tmp_path / "new")
    assert "not complete there: mentor r14, view 1" in output


def test_wrong_use(tmp_path: Path, source: TargetStore) -> None:
    assert "set $KDCACHE_HUB" in kdcache_("pull", code=2)
    assert "is the source itself" in kdcache_("merge", source.root, source.root, code=2)
    assert "has no mentor 'r56'" in kdcache_(
        "merge", source.root, tmp_path / "new", "--mentors", "r56", code=2
    )
    assert "can be read, not written" in kdcache_("merge", source.root, "s3://b/s", code=2)
    assert "no mentors" not in kdcache_("pull", "http://127.0.0.1:1/x", code=1)
    with serving(tmp_path) as server:
        assert "it is not the address of a store" in kdcache_("pull", server.url, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "views"),
    [("3", 3), ("0,2", (0, 2)), ("0:3", (0, 1, 2)), ("20:22", (20, 21)), ("5:6", (5,))],
)
def test_views_are_chosen(text: str, views: object) -> None:
    assert ViewChoice().convert(text, None, None) == views


@pytest.mark.parametrize(
    "text", ["3:3", "4:2", ":", "-1:2", "0:1:2", "a", "0:99999999999", "1,0:2"]
)
def test_what_is_no_choice_of_views_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="a range such as 0:40"):
        ViewChoice().convert(text, None, None)
