"""A store's card: what it says is so, its commands run, and a stranger's names are only text."""

import json
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr
import zarr.errors
from click.testing import CliRunner

import kdcache
from kdcache.card import MARKER, store_card, write_card
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.errors import StoreError, UsageError
from kdcache.mentors import Mentor
from kdcache.store import TargetStore, open_store, refuse_foreign, verify_store
from kdcache.versions import library_versions
from tests.plain_reader import PlainStore
from tests.store.small import SmallStore, make_store

HOSTILE = '"]\n---\n<script>alert(1)</script> | `x` ![y](http://e.vil/z) www.e.vil **b** \u202e'


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store", mentors=("r8", "r20"))


@pytest.fixture
def real(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    """Two views of two mentors, coarse logits with features."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "real", views=2, encoder="coarse", features=True
    )


def head(card: str) -> dict[str, Any]:
    """The front matter: a key and JSON in each line, which is YAML."""
    start, matter, _ = card.split("---\n", 2)
    assert start == ""
    pairs = [line.split(": ", 1) for line in matter.splitlines()]
    return {key: json.loads(value) for key, value in pairs}


def commands(card: str) -> list[list[str]]:
    lines = "\n".join(re.findall(r"```bash\n(.*?)\n```", card, flags=re.DOTALL)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("kdcache")]


def test_it_says_what_the_store_is(real: TargetStore) -> None:
    card = store_card(real, licence="cc-by-4.0")
    stored = real.mentor("r8")
    for part in (
        "digits, split train",
        "100 of 10 classes",
        real.fingerprint,
        stored.manifest.checkpoint_sha256,
        f"{stored.accuracy:.2f}%",
        "coarse (",
        "logits, features (float16)",
        "2 of 2",
        "hands it on under: cc-by-4.0.",
        f"torch {library_versions()['torch']}",
    ):
        assert part in card
    assert str(real.root) not in card
    assert head(card)["license"] == "cc-by-4.0"
    assert head(card)["size_categories"] == ["n<1K"]
    assert head(store_card(real))["license"] == "unknown"
    other = head(store_card(real, licence='CC "BY": ours'))
    assert (other["license"], other["license_name"]) == ("other", 'CC "BY": ours')


def test_its_head_is_a_dataset_cards(small: SmallStore) -> None:
    hub = pytest.importorskip("huggingface_hub")
    for licence in (None, "mit", 'CC "BY": ours, #1'):
        card = store_card(small.open(), licence=licence)
        data = hub.DatasetCard(card).data.to_dict()
        assert data == head(card)


def test_its_commands_are_those_that_make_and_use_it(
    tmp_path: Path, real: TargetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = store_card(real)
    making, pulling, verifying, training = commands(card)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        done = CliRunner().invoke(main, list(map(str, words)))
        assert done.exit_code == 0, done.output
        return done.output

    run(*[str(real.root) if word == "URL" else word for word in pulling[1:]])
    assert "is sound" in run(*verifying[1:])
    assert "test top-1" in run(
        *training[1:], "--student", "r8", "--epochs", 1, "--device", "cpu", "--out", "run"
    )
    given = [f"--checkpoint={name}=checkpoints/{name}-0.safetensors" for name in ("r14", "r8")]
    words = ["new" if word == "STORE" else word for word in making[1:]]
    run(*words, *given, "--device", "cpu")
    assert kdcache.compare_stores(real, "new").alike


def test_it_disturbs_no_reader(small: SmallStore) -> None:
    before = small.open().targets(0, small.dataset.index_N)
    path = write_card(small.root)
    assert (path, path.read_text()) == (small.root / "README.md", store_card(small.open()))
    assert (small.open().targets(0, small.dataset.index_N) == before).all()
    assert verify_store(small.root).ok
    refuse_foreign(small.root)
    group = zarr.open_group(small.root, mode="r")
    assert group["mentors/r8/logits"].shape == (2, 7, 3)  # type: ignore[union-attr]
    with pytest.warns(zarr.errors.ZarrUserWarning):  # of the locks too, as before
        assert sorted(group) == ["index", "labels", "mentors"]
    assert PlainStore(small.root).mentors.keys() == {"r8", "r20"}
    (small.root / "zarr.json").unlink()
    for mentor in ("r8", "r20"):
        (small.root / "mentors" / mentor / "zarr.json").unlink()
    refuse_foreign(small.root)  # what is left of it is still ours


def test_a_folder_with_a_readme_alone_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(StoreError, match="not a kdcache store"):
        refuse_foreign(tmp_path)


def test_what_somebody_else_wrote_stays(tmp_path: Path, small: SmallStore) -> None:
    path = small.root / "README.md"
    write_card(small.root)
    write_card(small.root, licence="mit")
    assert 'license: "mit"' in path.read_text()
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"was not written by kdcache .* --force"):
        write_card(small.root)
    assert path.read_text() == "mine"
    write_card(small.root, force=True)
    assert MARKER in path.read_text()
    path.unlink()
    (tmp_path / "theirs").write_text(f"theirs {MARKER}")
    os.symlink(tmp_path / "theirs", path)
    with pytest.raises(StoreError, match="symbolic link"):
        write_card(small.root, force=True)
    assert (tmp_path / "theirs").read_text() == f"theirs {MARKER}"


def test_names_of_strangers_are_only_text(small: SmallStore) -> None:
    store = small.open()
    for mentor in store.sound_mentors:
        vars(mentor.manifest).update(architecture=HOSTILE, checkpoint_sha256=HOSTILE)
    store.manifest.dataset.update(name=HOSTILE, split=HOSTILE)
    store.manifest.recipe.update({"name": HOSTILE, HOSTILE: HOSTILE})
    store.manifest.written_by.update({HOSTILE: HOSTILE * 1000})
    card = store_card(store)
    assert len(card) < 20_000
    assert set(head(card)) == set(head(store_card(small.open())))
    assert card.count("\n---\n") == 1
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"```bash\n.*?\n```|`[^`\n]*`", "", body, flags=re.DOTALL)
    for markup in ("<script", "](http", "**b", "www.e", "`"):
        assert not re.search(rf"(?<!\\){re.escape(markup)}", outside.replace(MARKER, "")), markup
    assert "\u202e" not in card
    tables = [line for line in outside.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert bars == {3, 9}
    fences = [line for line in card.splitlines() if line.startswith("```")]
    assert fences == ["```bash", "```"] * 2


def test_a_stranger_cannot_close_the_fence_or_the_quotes(small: SmallStore) -> None:
    name = "x'; rm -rf ~ #```"
    described = {**small.open().manifest.dataset, "name": name}
    store = TargetStore(small.root, replace(small.open().manifest, dataset=described))
    for words in commands(store_card(store)):
        assert words[0] == "kdcache"
        assert "rm" not in words
        if "--dataset" in words:
            assert words[words.index("--dataset") + 1] == name


@pytest.mark.parametrize("licence", ["", " ", "a\nb: c", "x" * 201])
def test_a_licence_is_one_line(small: SmallStore, licence: str) -> None:
    with pytest.raises(UsageError, match="one line of at most 200"):
        write_card(small.root, licence=licence)
    assert not (small.root / "README.md").exists()


def test_the_command(tmp_path: Path, small: SmallStore) -> None:
    def card(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["card", *map(str, words)])
        assert done.exit_code == code, done.output
        return done.output

    assert card(small.root, "--show") == store_card(small.open())
    assert not (small.root / "README.md").exists()
    assert "wrote " in card(small.root, "--licence", "mit")
    (small.root / "README.md").write_text("mine")
    assert "--force" in card(small.root, code=2)
    assert "wrote " in card(small.root, "--force")
    assert "does not exist" in card(tmp_path / "nowhere", code=2)
    assert "can be read, not written" in card("http://127.0.0.1:1/store", code=2)
    assert open_store(small.root).mentors == ["r20", "r8"]
