"""What is said to be run for what a hub lacks or has damaged can be run."""

import shlex
from pathlib import Path

import pytest

from kdcache.errors import DamagedTargets, MissingTargets
from kdcache.share import push_store
from kdcache.store import healing_command, open_store, verify_store
from tests.damaging import flip
from tests.share.test_pushing import invoke
from tests.store.small import SmallStore


@pytest.fixture
def damaged(small: SmallStore, hub_folder: Path) -> Path:
    """A hub with one damaged chunk of r8, in view 1."""
    push_store(small.root, str(hub_folder))
    stored = open_store(hub_folder).mentor("r8")
    (chunk,) = (hub_folder / "chunks" / stored.identity).glob("000001.000002.*")
    flip(chunk)
    return hub_folder


def test_a_damaged_chunk_is_pushed_anew(damaged: Path, small: SmallStore, tmp_path: Path) -> None:
    command = f"kdcache push STORE {damaged} --overwrite --mentors r8 --views 1:2"
    sha256 = small.open().mentor("r8").commits[1, 2].sha256
    said = invoke("pull", damaged, "--store", tmp_path / "new", exit_code=1)
    assert f"make it anew with:\n  {command}  # with a STORE" in said
    said = invoke("verify", damaged, exit_code=1)
    assert f"  {command}  # with a STORE" in said
    assert f"{next(damaged.glob('chunks/*/*' + sha256))}: " in said
    store = open_store(damaged)
    with pytest.raises(DamagedTargets, match=r"Make exactly .* anew with: kdcache push STORE"):
        store.targets(1, store.index_N)
    words = [small.root if word == "STORE" else word for word in shlex.split(command)[1:]]
    invoke(*words)
    assert verify_store(damaged).ok


def test_what_is_missing_is_computed_and_pushed(damaged: Path, tmp_path: Path) -> None:
    command = f"kdcache precompute --hub {damaged} --push --mentors "
    for words in (["--mentors", "r44"], ["--mentors", "r8", "--views", "100:120"]):
        said = invoke("pull", damaged, "--store", tmp_path / "new", *words, exit_code=2)
        assert f"with: {command}{words[1]} " in said
        assert "--store" not in said.partition("kdcache precompute")[2]
    with pytest.raises(MissingTargets):
        open_store(damaged).mentor("r44")
    manifest = open_store(damaged).manifest
    command = healing_command(open_store(damaged), ["r44"])
    assert f"--recipe {manifest.recipe['name']} " in command
    assert f" --view-seed {manifest.view_seed} --views 3" in command
    for name in ("size", "padding", "flip"):  # what its dataset sets is not known here
        assert f"--recipe-option {name}={str(manifest.recipe[name]).lower()}" in command
