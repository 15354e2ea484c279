"""Mentors' checkpoints at a hub: what is pushed arrives whole, and nothing else does."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdcache import homes
from kdcache.checkpoints import file_sha256, save_weights
from kdcache.cli import main
from kdcache.errors import CheckpointError, KdcacheError, StoreError, UsageError
from kdcache.models import build_network
from kdcache.share import Hub
from kdcache.share.checkpoints import pull_mentor, push_mentor
from kdcache.share.mentor_entries import MOST_CHECKPOINT
from kdcache.store.sealed import BLANK, SEAL, seal
from tests.damaging import cut, flip, lose
from tests.store.small import alter, files_of

SIDECAR = {"preprocessing": {"mean": [0.3] * 3, "std": [0.4] * 3}, "test_top1": 91.25}


@pytest.fixture
def checkpoint(digits_checkpoint: Callable[..., Path]) -> Path:
    """A network's weights with a sidecar."""
    path = digits_checkpoint("r8")
    path.with_suffix(".json").write_text(json.dumps(SIDECAR))
    return path


@pytest.fixture
def pushed(hub_folder: Path, checkpoint: Path) -> Path:
    """A hub with this checkpoint of r8."""
    push_mentor("r8", str(hub_folder), dataset="digits", checkpoint=checkpoint)
    return hub_folder


def library() -> Path:
    return homes.mentor_library("digits")


def entry_of(hub: Path) -> Path:
    (entry,) = (hub / "mentors").iterdir()
    return entry


def alter_entry(hub: Path, lie: Callable[[dict[str, Any]], object]) -> None:
    """Another entry in its place, named by its content, and listed under that name."""
    entry = entry_of(hub)
    alter(entry, lie)
    digest = hashlib.sha256(entry.read_bytes()).hexdigest()[:16]
    file = entry.rename(entry.with_name(f"digits.resnet8.{digest}.json")).name
    alter(hub / "index.json", lambda index: index["mentors"][0].update(file=file))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(
    hub: Path,
    *parts: str,
    error: type[KdcacheError] = CheckpointError,
    sha256: str | None = None,
) -> str:
    """A pull that takes nothing, and says why."""
    before = files_of(library()) if library().exists() else {}
    with pytest.raises(error) as caught:
        pull_mentor("r8", str(hub), dataset="digits", sha256=sha256)
    for part in parts:
        assert part in str(caught.value)
    assert (files_of(library()) if library().exists() else {}) == before
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_pushed_arrives(hub_folder: Path, checkpoint: Path, suffix: str) -> None:
    if suffix == ".pth":
        import torch

        network = build_network("r8", 10, seed=0)
        checkpoint = checkpoint.with_suffix(suffix)
        torch.save(network.state_dict(), checkpoint)
    moved = push_mentor("resnet8", str(hub_folder), dataset="digits", checkpoint=checkpoint)
    assert moved.bytes == checkpoint.stat().st_size
    told: list[tuple[int, int]] = []
    pulled = pull_mentor(
        "r8", str(hub_folder), dataset="digits", progress=lambda *both: told.append(both)
    )
    assert pulled.path == library() / f"resnet8{suffix}"
    assert pulled.path.read_bytes() == checkpoint.read_bytes()
    assert json.loads(pulled.path.with_suffix(".json").read_text()) == SIDECAR
    assert told[-1] == (moved.bytes, moved.bytes)
    assert sorted(path.name for path in library().iterdir()) == sorted(
        ["resnet8.json", f"resnet8{suffix}"]
    )
    assert pull_mentor("r8", str(hub_folder), dataset="digits").bytes == 0


def test_the_same_again_moves_nothing(pushed: Path, checkpoint: Path) -> None:
    before = {name: file for name, file in files_of(pushed).items() if "/" in name}
    assert push_mentor("r8", str(pushed), dataset="digits", checkpoint=checkpoint).bytes == 0
    assert {name: file for name, file in files_of(pushed).items() if "/" in name} == before


def test_a_hub_tells_which_mentors_it_has(pushed: Path, checkpoint: Path) -> None:
    (listed,) = Hub(pushed).index().mentors
    assert (listed["name"], listed["dataset"]) == ("r8", "digits")
    assert listed["sha256"] == file_sha256(checkpoint)
    shown = run("list", pushed)
    assert "mentor r8 for digits" in shown.output


def test_a_checkpoint_without_sidecar(hub_folder: Path, digits_checkpoint: Any) -> None:
    push_mentor("r8", str(hub_folder), dataset="digits", checkpoint=digits_checkpoint("r8"))
    library().mkdir(parents=True)
    (library() / "resnet8.json").write_text("{}")  # of a checkpoint that is gone
    pull_mentor("r8", str(hub_folder), dataset="digits")
    assert [path.name for path in library().iterdir()] == ["resnet8.safetensors"]


def test_weights_of_another_network_or_dataset_are_not_pushed(
    hub_folder: Path, checkpoint: Path
) -> None:
    for name, dataset in (("r14", "digits"), ("r8", "cifar100")):
        with pytest.raises(CheckpointError, match=r"checkpoint of this|classes"):
            push_mentor(name, str(hub_folder), dataset=dataset, checkpoint=checkpoint)
    flip(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a whole"):
        push_mentor("r8", str(hub_folder), dataset="digits", checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="Four ways to get one"):
        push_mentor("r8", str(hub_folder), dataset="digits")
    with pytest.raises(UsageError, match="unknown dataset"):
        push_mentor("r8", str(hub_folder), dataset="digit", checkpoint=checkpoint)
    assert not hub_folder.exists()


@pytest.mark.parametrize("change", [flip, cut, lose])
def test_weights_that_changed_at_the_hub_are_not_taken(
    pushed: Path, change: Callable[[Path], None]
) -> None:
    (weights,) = (pushed / "checkpoints").iterdir()
    change(weights)
    message = refused(pushed, "kdcache push-mentor r8", str(pushed))
    assert "not what was pushed" in message or "bytes instead of" in message or "gone" in message


def test_more_bytes_than_the_entry_says_are_not_taken(pushed: Path) -> None:
    (weights,) = (pushed / "checkpoints").iterdir()
    weights.write_bytes(weights.read_bytes() * 3)
    refused(pushed, "bytes instead of")


def test_another_checkpoint_here_is_never_overwritten(
    pushed: Path, checkpoint: Path, digits_checkpoint: Callable[..., Path]
) -> None:
    other = digits_checkpoint("r8", 1)
    library().mkdir(parents=True)
    for suffix in (".safetensors", ".pth"):
        here = library() / f"resnet8{suffix}"
        here.write_bytes(other.read_bytes())
        refused(pushed, "is not overwritten", file_sha256(other), file_sha256(checkpoint))
        here.unlink()


def test_one_checkpoint_with_two_preprocessings(pushed: Path, checkpoint: Path) -> None:
    pulled = pull_mentor("r8", str(pushed), dataset="digits").path
    for path in (pulled, checkpoint):
        path.with_suffix(".json").write_text(json.dumps({"test_top1": 91.25}))
    refused(pushed, "another preprocessing", "the dataset's", "0.3")
    with pytest.raises(CheckpointError, match="another preprocessing"):
        push_mentor("r8", str(pushed), dataset="digits", checkpoint=checkpoint)


def test_two_sidecars_of_one_checkpoint_stand_side_by_side(
    pushed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """As two people push them at once, neither having seen the other: nothing is overwritten."""
    checkpoint.with_suffix(".json").write_text(json.dumps({"note": "as the dataset has it"}))
    push_mentor("r8", str(tmp_path / "another"), dataset="digits", checkpoint=checkpoint)
    first, second = entry_of(pushed), entry_of(tmp_path / "another")
    assert first.name != second.name
    shutil.copy(second, pushed / "mentors" / second.name)
    Hub(pushed).gather()
    digests = [path.name.split(".")[2] for path in (first, second)]
    message = refused(pushed, "2 descriptions of one checkpoint", "--sha", *digests)
    assert "0.3" in message
    assert "of the dataset" in message
    refused(pushed, "2 descriptions", sha256=file_sha256(checkpoint))
    moved = pull_mentor("r8", str(pushed), dataset="digits", sha256=digests[1])
    assert moved.shared.sidecar == {"note": "as the dataset has it"}
    moved.path.unlink()


def test_two_notes_on_one_checkpoint_are_no_reason_to_ask(
    pushed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    sidecar = {**SIDECAR, "test_top1": 91.26}
    checkpoint.with_suffix(".json").write_text(json.dumps(sidecar))
    before = entry_of(pushed)
    push_mentor("r8", str(pushed), dataset="digits", checkpoint=checkpoint)
    assert entry_of(pushed) == before
    push_mentor("r8", str(tmp_path / "another"), dataset="digits", checkpoint=checkpoint)
    second = entry_of(tmp_path / "another")
    shutil.copy(second, pushed / "mentors" / second.name)
    Hub(pushed).gather()
    assert pull_mentor("r8", str(pushed), dataset="digits").shared.sidecar in (SIDECAR, sidecar)


def test_an_entry_that_is_not_what_its_name_says(pushed: Path) -> None:
    alter(entry_of(pushed), lambda entry: entry.update(sidecar=None))
    refused(pushed, "not what its name says")


def test_of_several_one_is_named(
    pushed: Path, checkpoint: Path, digits_checkpoint: Callable[..., Path]
) -> None:
    others = [digits_checkpoint("r8", seed) for seed in (1, 2)]
    for other in others:
        push_mentor("r8", str(pushed), dataset="digits", checkpoint=other)
    known = [file_sha256(path) for path in (checkpoint, *others)]
    message = refused(pushed, "has 3 checkpoints", "--sha", *known)
    assert "test top-1 91.25" in message
    with pytest.raises(CheckpointError, match=r"0 checkpoints .* begins with zz"):
        pull_mentor("r8", str(pushed), dataset="digits", sha256="zz")
    moved = pull_mentor("r8", str(pushed), dataset="digits", preferred=["f" * 64, known[1]])
    assert moved.shared.sha256 == known[1]
    moved.path.unlink()
    moved = pull_mentor("r8", str(pushed), dataset="digits", sha256=known[2][:6].upper())
    assert file_sha256(moved.path) == known[2]


def test_a_mentor_that_is_not_there(pushed: Path, tmp_path: Path) -> None:
    for name, dataset in (("r14", "digits"), ("r8", "cifar10")):
        with pytest.raises(CheckpointError, match=r"has no checkpoint .* it has r8 \(digits\)"):
            pull_mentor(name, str(pushed), dataset=dataset)
    with pytest.raises(StoreError, match="there is no hub"):
        pull_mentor("r8", str(tmp_path / "nowhere"), dataset="digits")


def test_a_library_that_cannot_be_written(pushed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write it is that the operating system refuses; nothing stays behind."""
    library().parent.mkdir(parents=True)
    library().write_text("a file in the folder's place")
    failed = run("pull-mentor", "r8", "--dataset", "digits", "--hub", pushed)
    assert failed.exit_code == 2, failed.output
    assert f"the mentor library {library()} cannot be written" in failed.output
    library().unlink()
    for function in ("open", "write_file", "publish", "fsync"):
        with monkeypatch.context() as patched:
            place = {"open": "kdcache.remote.arriving.open", "fsync": "os.fsync"}
            patched.setattr(
                place.get(function, f"kdcache.durable.{function}"), no_space, raising=False
            )
            failed = run("pull-mentor", "r8", "--dataset", "digits", "--hub", pushed)
        assert failed.exit_code == 2, (function, failed.exception)
        assert "cannot be written (No space left on device)" in failed.output, failed.output
        assert not [path for path in library().glob("*") if path.suffix != ".json"]
        assert not [*library().glob(".*")]
    assert run("pull-mentor", "r8", "--dataset", "digits", "--hub", pushed).exit_code == 0


def no_space(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# A hub that lies: its documents are sealed, whatever they say

HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a suffix that is a path": lambda e: e.update(suffix="/../../../escaped.pt"),
    "a suffix that is run": lambda e: e.update(suffix=".py"),
    "no suffix": lambda e: e.update(suffix=""),
    "a suffix that is none": lambda e: e.update(suffix=[".pt"]),
    "another mentor's name": lambda e: e.update(name="../r8"),
    "another network": lambda e: e.update(architecture="../resnet8"),
    "another dataset": lambda e: e.update(dataset="../digits"),
    "a digest that is a path": lambda e: e.update(sha256="../" * 21 + "x"),
    "another digest": lambda e: e.update(sha256="0" * 64),
    "more bytes than any": lambda e: e.update(bytes=MOST_CHECKPOINT + 1),
    "no bytes": lambda e: e.update(bytes=0),
    "bytes that are none": lambda e: e.update(bytes=True),
    "fewer bytes": lambda e: e.update(bytes=100),
    "a sidecar that is none": lambda e: e.update(sidecar=[1]),
    "a huge sidecar": lambda e: e.update(sidecar={"note": "x" * 2**20}),
    "a preprocessing that is none": lambda e: e.update(sidecar={"preprocessing": {"mean": 1}}),
    "no classes": lambda e: e.update(num_classes=0),
    "a member too few": lambda e: e.pop("bytes"),
    "a newer format": lambda e: e.update(hub=2),
}


@pytest.mark.parametrize("lie", HOSTILE.values(), ids=HOSTILE)
def test_an_entry_that_lies(pushed: Path, tmp_path: Path, lie: Any) -> None:
    alter_entry(pushed, lie)
    outside = set(tmp_path.rglob("*"))
    refused(pushed, error=KdcacheError)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} <= outside


@pytest.mark.parametrize("lie", HOSTILE.values(), ids=HOSTILE)
def test_an_index_that_lies(pushed: Path, tmp_path: Path, lie: Any) -> None:
    """Of the index only hex digits are used: an entry that it makes up is not there."""
    outside = set(tmp_path.rglob("*"))
    document = json.loads((pushed / "index.json").read_bytes())
    lie(document["mentors"][0])
    (pushed / "index.json").write_bytes(seal({**document, SEAL: BLANK}))
    try:
        pulled = pull_mentor("r8", str(pushed), dataset="digits")
        assert pulled.path == library() / "resnet8.safetensors"
    except KdcacheError:
        assert {path for path in tmp_path.rglob("*") if path.is_file()} <= outside


def test_an_entry_of_a_huge_file_is_not_read(pushed: Path) -> None:
    entry_of(pushed).write_bytes(b" " * 2**22)
    refused(pushed, error=StoreError)


def test_weights_of_another_network_are_not_taken(pushed: Path, tmp_path: Path) -> None:
    """The SHA-256 is right, and the weights are not r8's."""
    other = tmp_path / "other.safetensors"
    save_weights(other, build_network("r14", 10, seed=0), {})
    content = other.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    (pushed / "checkpoints" / sha256).write_bytes(content)
    alter_entry(pushed, lambda e: e.update(sha256=sha256, bytes=len(content)))
    (pushed / "index.json").unlink()
    Hub(pushed).gather()
    refused(pushed, "is not a checkpoint of this")


def test_the_commands(hub_folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_HUB", str(hub_folder))
    done = run("push-mentor", "r8", "--dataset", "digits", "--checkpoint", checkpoint)
    assert done.exit_code == 0, done.output
    assert f"kdcache pull-mentor r8 --dataset digits --hub {hub_folder}" in done.output
    again = run("push-mentor", "r8", "--dataset", "digits", "--checkpoint", checkpoint)
    assert "nothing moved" in again.output
    taken = run("pull-mentor", "r8", "--dataset", "digits")
    assert taken.exit_code == 0, taken.output
    for named in ([hub_folder], ["--hub", hub_folder]):
        monkeypatch.setenv("KDCACHE_HUB", "/nowhere")
        for command in (["push-mentor"], ["pull-mentor"]):
            done = run(*command, "r8", *named, "--dataset", "digits")
            assert "nothing" in done.output
    monkeypatch.setenv("KDCACHE_HUB", str(hub_folder))
    assert file_sha256(checkpoint) in taken.output
    assert "nothing to take" in run("pull-mentor", "r8", "--dataset", "digits").output
    config = checkpoint.with_name("pull.toml")
    config.write_text(f'dataset = "digits"\nhub = "{hub_folder}"\n')
    assert run("pull-mentor", "r8", "--config", config).exit_code == 0
    missing = run("pull-mentor", "r14", "--dataset", "digits")
    assert missing.exit_code == 2
    assert "kdcache push-mentor r14" in missing.output
    monkeypatch.delenv("KDCACHE_HUB")
    unnamed = run("pull-mentor", "r8", "--dataset", "digits")
    assert unnamed.exit_code == 2
    assert "name a hub" in unnamed.output
