"""What a run began with: another store, mentor or dataset is refused, another environment told."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kdcache
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset
from kdcache.errors import Stopped, StoreError, StoreMismatch
from kdcache.mentors import load_mentor
from kdcache.store import TargetStore, commit_targets
from kdcache.train import beginnings, run_source
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import same_run
from tests.train.conftest import Run
from tests.train.test_resuming import DROPOUT, stop_at

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def stopped(train: Run, tmp_path: Path) -> Path:
    with pytest.raises(Stopped):
        list(train("run", student=DROPOUT, should_stop=stop_at(8)))
    return tmp_path / "run"


def test_changed_versions_and_hardware_are_told_before_it_continues(
    train: Run, stopped: Path
) -> None:
    config = stopped / "config.toml"
    version = torch.__version__.split("+")[0]
    text = config.read_text().replace(f'torch = "{version}"', 'torch = "1.0.0"')
    config.write_text(text.replace('hardware = "', 'hardware = "not '))
    told: list[str] = []
    next(train("run", student=DROPOUT, notify=told.append))
    assert "it may not end as if it had never stopped" in told[0]
    assert f"torch 1.0.0 -> {version}" in told[0]
    assert "hardware not " in told[0]
    assert "python" not in told[0]
    assert "going on" in told[1]


def test_changed_threads_are_told(train: Run, stopped: Path) -> None:
    threads = torch.get_num_threads()
    told: list[str] = []
    try:
        torch.set_num_threads(threads + 1)
        next(train("run", student=DROPOUT, notify=told.append))
    finally:
        torch.set_num_threads(threads)
    assert f"threads {threads} -> {threads + 1}" in told[0]


def test_a_store_that_moved_is_gone_on_with(
    train: Run, stopped: Path, store: TargetStore, tmp_path: Path
) -> None:
    list(train("undisturbed", student=DROPOUT))
    moved = tmp_path / "moved"
    shutil.move(store.root, moved)
    told: list[str] = []
    with pytest.raises(StoreError, match="not there any more; say where it is now with --store"):
        next(train("run", student=DROPOUT, store=None))
    list(train("run", student=DROPOUT, store=str(moved), notify=told.append))
    assert told == [f"going on in {stopped} after 1 of 3 epochs"]
    assert same_run(stopped, tmp_path / "undisturbed")
    assert read_toml(stopped / "config.toml")["store"] == str(moved)
    list(train("run", student=DROPOUT, store=None, notify=told.append))  # it knows by now
    assert "is finished" in told[-1]


def other_store(
    tmp_path: Path, digits: ImageDataset, make: MakeCheckpoint, seed: int = 0, **options: object
) -> str:
    """A store like the fixture's but for its options, or the seed of mentor r8's weights."""
    mentors = [
        load_mentor("r14", digits, make("r14")),
        load_mentor("r8", digits, make("r8", seed)),
    ]
    arguments = {"views": 3, "encoder": "float32", **options}
    made = kdcache.precompute_targets(digits, mentors, store=tmp_path / "other", **arguments)  # type: ignore[arg-type]
    return str(made.root)


def refused(train: Run, folder: Path, store: str, match: str, **options: object) -> None:
    """The run does not go on, and is as it was: with its own store it still ends."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(StoreMismatch, match=match):
        next(train("run", student=DROPOUT, store=store, **options))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_other_mentors_are_refused_with_both_sides(
    train: Run, stopped: Path, tmp_path: Path, digits: ImageDataset,
    digits_checkpoint: MakeCheckpoint,
) -> None:  # fmt: skip
    store = other_store(tmp_path, digits, digits_checkpoint, seed=1)
    refused(
        train,
        stopped,
        store,
        r"trained on something else so far:\n.*it began with +this command\n"
        r" +mentor r8 +[0-9a-f]{16} +[0-9a-f]{16}\nName the store",
    )
    assert list(train("run", student=DROPOUT))


def test_another_encoder_is_refused(
    train: Run, stopped: Path, tmp_path: Path, digits: ImageDataset,
    digits_checkpoint: MakeCheckpoint,
) -> None:  # fmt: skip
    store = other_store(tmp_path, digits, digits_checkpoint, encoder="float16")
    refused(train, stopped, store, r"mentor r14 .*\n +mentor r8 .*\nName")


def test_a_store_of_more_samples_is_refused(
    train: Run, stopped: Path, tmp_path: Path, digits_checkpoint: MakeCheckpoint
) -> None:
    more = kdcache.datasets.open_dataset("digits", samples=120)
    store = other_store(tmp_path, more, digits_checkpoint)
    refused(train, stopped, store, r"fingerprint +[0-9a-f]{64} +[0-9a-f]{64}\n(.*\n)*Name")


def test_labels_only_need_the_views_and_not_the_mentors(
    train: Run, tmp_path: Path, digits: ImageDataset, digits_checkpoint: MakeCheckpoint
) -> None:
    options = {"student": DROPOUT, "method": "ce"}
    list(train("undisturbed", **options))
    with pytest.raises(Stopped):
        list(train("run", **options, should_stop=stop_at(8)))
    store = other_store(tmp_path, digits, digits_checkpoint, seed=1)
    list(train("run", **options, store=store))
    assert same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_other_test_samples_are_refused(
    train: Run, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.train import shared

    open_dataset = kdcache.datasets.open_dataset
    monkeypatch.setattr(
        shared,
        "open_dataset",
        lambda name, split, **_: open_dataset(name, split, samples=50 if split == "test" else None),
    )
    with pytest.raises(StoreMismatch, match=r"test samples +[0-9a-f]{16} +[0-9a-f]{16}\nName"):
        next(train("run", student=DROPOUT))


def test_live_mentors_must_be_the_ones_it_began_with(
    train: Run, tmp_path: Path, digits_checkpoint: MakeCheckpoint
) -> None:
    options = {"student": DROPOUT, "store": None, "targets": "online", "mentors": ("r8",)}
    given = {"r8": str(digits_checkpoint("r8"))}
    with pytest.raises(Stopped):
        list(train("run", **options, checkpoints=given, should_stop=stop_at(8)))
    wrong = {"r8": str(digits_checkpoint("r8", 1))}
    with pytest.raises(StoreMismatch, match=r"mentor r8 +[0-9a-f]{16} +[0-9a-f]{16}"):
        next(train("run", **options, checkpoints=wrong))
    list(train("run", **options, checkpoints=given))
    list(train("undisturbed", **options, checkpoints=given))
    assert same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_the_beginning_is_kept_when_a_run_goes_on(train: Run, stopped: Path) -> None:
    began = read_toml(stopped / "config.toml")["environment"]
    assert began["trained_on"].keys() == {
        "training samples", "test samples", "fingerprint", "mentor r14", "mentor r8",
        "targets",
    }  # fmt: skip
    list(train("run", student=DROPOUT, checkpoint_every=4))
    recorded = read_toml(RunFolder(stopped).config)
    assert recorded["checkpoint_every"] == 4
    assert recorded["environment"] == began


def test_other_bits_of_the_same_targets_are_refused(
    train: Run, stopped: Path, store: TargetStore
) -> None:
    """As if another machine had computed a chunk anew."""
    stored, rows = store.mentor("r8"), store.manifest.block_rows(0)
    targets = store.targets(0, store.index_N[rows], ["r8"])[:, 0]
    targets[0, 0] -= 1e-3
    for path in (
        stored.array.commit_index,
        stored.array.commits / stored.commits[0, 0].file_name,
        stored.array.chunk(0, 0),
    ):
        path.unlink(missing_ok=True)
    commit_targets(stored, (0, 0), targets, store.labels_N[rows], store.manifest.block)
    with pytest.raises(StoreMismatch, match=r"targets +[0-9a-f]{16} +[0-9a-f]{16}\nName"):
        next(train("run", student=DROPOUT))


def test_a_run_that_began_before_targets_were_stated_goes_on(
    train: Run, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(train("undisturbed", student=DROPOUT))
    shutil.rmtree(stopped)
    describe = beginnings.describe_store
    with monkeypatch.context() as patched:
        patched.setattr(run_source, "describe_store", lambda *given: describe(*given[:3]))
        with pytest.raises(Stopped):
            list(train("run", student=DROPOUT, should_stop=stop_at(8)))
    config = read_toml(stopped / "config.toml")
    assert "targets" not in config["environment"]["trained_on"]
    list(train("run", student=DROPOUT))
    assert same_run(tmp_path / "run", tmp_path / "undisturbed")
