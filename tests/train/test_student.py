"""Training: from the store it is training online, and stopped anywhere it ends the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kdcache
from kdcache.checkpoints import read_metadata
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset
from kdcache.errors import (
    CheckpointError,
    MissingTargets,
    RunFailed,
    Stopped,
    StoreMismatch,
    UsageError,
)
from kdcache.mentors import Mentor, load_mentor
from kdcache.store import TargetStore
from kdcache.train import TrainConfig
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import same_weights, timeless
from tests.train.conftest import Run


def checkpoints(digits_checkpoint: Callable[[str], Path]) -> dict[str, str]:
    return {name: str(digits_checkpoint(name)) for name in ("r14", "r8")}


@pytest.mark.parametrize("method", ["classroom", "average"])
def test_from_the_store_is_online_bit_for_bit(
    train: Run, tmp_path: Path, digits_checkpoint: Callable[[str], Path], method: str
) -> None:
    stored = list(train("stored", method=method))
    online = list(
        train("online", method=method, targets="online", checkpoints=checkpoints(digits_checkpoint))
    )
    assert timeless(stored) == timeless(online)
    assert len(stored) == 3
    assert same_weights(tmp_path / "stored", tmp_path / "online")


def test_methods_and_seeds_differ(train: Run, tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "classroom": {},
        "another seed": {"seed": 2},
        "tau": {"switches": {"tau": 4.0}},
        "average": {"method": "average"},
        "ce": {"method": "ce"},
        "kd": {"method": "kd", "mentors": ("r14",)},
    }
    for name, options in runs.items():
        list(train(name, **options))
    for name in runs:
        for other in runs:
            assert same_weights(tmp_path / name, tmp_path / other) == (name == other)


def test_killed_between_record_and_checkpoint_leaves_no_duplicates(
    train: Run, tmp_path: Path
) -> None:
    undisturbed = list(train("undisturbed"))
    run = train("killed")
    next(run)
    run.close()
    folder = RunFolder(tmp_path / "killed")
    folder.append_record({"epoch": 1, "from": "an epoch whose checkpoint was never written"})
    with open(folder.metrics, "a") as file:
        file.write('{"epoch": 2, "cut sho')
    list(train("killed"))
    assert timeless(folder.records()) == timeless(undisturbed)
    assert same_weights(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_finished_run_has_nothing_left_to_do(train: Run, tmp_path: Path) -> None:
    list(train("once"))
    before = (tmp_path / "once" / "student.safetensors").read_bytes()
    told: list[str] = []
    assert list(train("once", notify=told.append)) == []
    assert any("is finished" in line for line in told)
    assert (tmp_path / "once" / "student.safetensors").read_bytes() == before


def test_another_run_in_the_same_folder_is_refused_with_both_sides(train: Run) -> None:
    list(train("mine"))
    with pytest.raises(UsageError, match=r"lr\s+0.05\s+0.1\n.*Choose another --out"):
        train("mine", lr=0.1).__next__()


def test_the_resolved_config_reproduces_the_run(train: Run, tmp_path: Path) -> None:
    list(train("first", switches={"tau": 3.0}))
    config = read_toml(tmp_path / "first" / "config.toml")
    environment = config.pop("environment")
    assert environment["torch"]
    config["mentors"] = tuple(config["mentors"])
    assert config["recipe"] == "crop-flip"
    assert config["views"] == 3
    config["out"] = str(tmp_path / "second")
    list(kdcache.train_student(TrainConfig(**config)))
    assert same_weights(tmp_path / "first", tmp_path / "second")


def test_records_hold_what_they_promise(train: Run, tmp_path: Path) -> None:
    records = list(train("run", eval_every=2))
    on_disk = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert on_disk == records
    assert [r["epoch"] for r in records] == [r["view"] for r in records] == [0, 1, 2]
    assert [r["test_top1"] is None for r in records] == [True, False, False]
    for record in records:
        total = record["task_loss"] + record["mentor_loss"]
        assert record["train_loss"] == pytest.approx(total, rel=1e-6)
        assert set(record["classroom"]["active"]) == {"r14", "r8"}
        assert 0 <= record["classroom"]["untaught"] <= 1


def test_the_student_file_says_what_it_is_and_evaluates(train: Run, tmp_path: Path) -> None:
    records = list(train("run"))
    metadata = read_metadata(tmp_path / "run" / "student.safetensors")
    assert metadata["architecture"] == "resnet8"
    assert metadata["dataset"] == "digits"
    found = kdcache.evaluate_checkpoint(tmp_path / "run")
    assert found["top1"] == records[-1]["test_top1"]
    assert found["loss"] == pytest.approx(records[-1]["test_loss"])
    assert found["samples"] == 359


def test_a_loss_that_is_no_longer_finite_ends_the_run(train: Run, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="Try a lower --lr"):
        list(train("wild", method="ce", lr=1e30))
    assert not (tmp_path / "wild" / "student.safetensors").exists()


def test_options_that_contradict_the_store_show_both_sides(train: Run) -> None:
    for match, options in (
        (r"view_seed\s+0\s+9", {"view_seed": 9}),
        (r"recipe\s+crop-flip\s+none", {"recipe": "none"}),
        (r"dataset\s+digits\s+cifar", {"dataset": "cifar"}),
    ):
        with pytest.raises(StoreMismatch, match=match):
            next(train("no", **options))
    with pytest.raises(MissingTargets, match=r"views asked for are 0 to 3; complete .* 0 to 2"):
        next(train("no", views=4))
    for samples in (120, 1438):
        with pytest.raises(MissingTargets, match="holds no targets for"):
            next(train("no", samples=samples))
    with pytest.raises(MissingTargets, match="no mentor 'r110'; it has r14, r8"):
        next(train("no", mentors=("r110",)))
    with pytest.raises(UsageError, match="exactly one mentor"):
        next(train("no", method="kd"))
    with pytest.raises(UsageError, match=r"unknown method 'classrom'. Did you mean classroom"):
        next(train("no", method="classrom"))


def test_online_needs_the_stores_own_checkpoints(
    train: Run, digits_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match="Four ways to get one"):
        next(train("no", targets="online"))
    wrong = {**checkpoints(digits_checkpoint), "r8": str(digits_checkpoint("r8", 1))}
    with pytest.raises(StoreMismatch, match=r"checkpoint_sha256\s+\w{64}\s+\w{64}"):
        next(train("no", targets="online", checkpoints=wrong))


def test_without_a_store_the_one_that_fits_is_found(
    kdcache_home: Path, store: TargetStore, train: Run
) -> None:
    with pytest.raises(UsageError, match=r"(?s)no store fits digits.*\(none at all\)"):
        next(train("no", store=None))
    (kdcache_home / "stores").mkdir(parents=True)
    store.root.rename(kdcache_home / "stores" / "one")
    found = list(train("found", store=None))
    assert len(found) == 3
    (kdcache_home / "stores" / "two").symlink_to(kdcache_home / "stores" / "one")
    with pytest.raises(UsageError, match="several stores fit digits; choose one with --store"):
        next(train("no", store=None))


def test_online_without_a_store_uses_a_new_view_every_epoch(
    train: Run, digits_checkpoint: Callable[[str], Path]
) -> None:
    given = checkpoints(digits_checkpoint)
    records = list(
        train("live", store=None, targets="online", mentors=("resnet8", "r14"), checkpoints=given)
    )
    assert [record["view"] for record in records] == [0, 1, 2]
    assert list(records[0]["classroom"]["active"]) == ["r8", "r14"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_train(train: Run, precision: str) -> None:
    records = list(train("run", precision=precision, method="ce", lr=0.05, epochs=3))
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_training_leaves_the_callers_random_state_alone(train: Run) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(train("run", epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_run_that_goes_on_keeps_its_views_when_the_store_grows(
    train: Run, tmp_path: Path, store: TargetStore, digits: ImageDataset,
    digits_mentors: list[Mentor], digits_checkpoint: Callable[..., Path],
) -> None:  # fmt: skip
    polls = iter(range(8))
    with pytest.raises(Stopped):
        list(train("grown", epochs=4, should_stop=lambda: next(polls, None) is None))
    more = load_mentor("r20", digits, digits_checkpoint("r20"))
    kdcache.precompute_targets(digits, [*digits_mentors, more], store=store.root, views=5)
    with pytest.warns(UserWarning, match="epoch 3 uses view 0 again"):
        list(train("grown", epochs=4))
    records = RunFolder(tmp_path / "grown").records()
    assert [record["view"] for record in records] == [0, 1, 2, 0]
    assert all(set(record["classroom"]["active"]) == {"r14", "r8"} for record in records)
    fresh = next(train("fresh", epochs=4))
    assert set(fresh["classroom"]["active"]) == {"r14", "r20", "r8"}


def test_some_of_a_stores_views_will_do(train: Run, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="only 2 views are usable"):
        assert [r["view"] for r in train("first", views=2)] == [0, 1, 0]
    with pytest.warns(UserWarning, match="only 2 views are usable"):
        assert [r["view"] for r in train("listed", views=(2, 0))] == [2, 0, 2]
    assert read_toml(tmp_path / "first" / "config.toml")["views"] == 2
    assert read_toml(tmp_path / "listed" / "config.toml")["views"] == [2, 0]


def test_the_dataset_is_the_stores_where_none_is_named(train: Run) -> None:
    assert len(list(train("run", dataset=None, samples=None))) == 3


def test_a_start_that_failed_holds_no_folder(train: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lower the batch size"):
        next(train("again", batch_size=5000))
    with pytest.raises(RunFailed):
        list(train("again", method="ce", lr=1e30))
    list(train("again"))
    assert (tmp_path / "again" / "student.safetensors").exists()


def test_records_of_an_epoch_without_checkpoint_are_dropped(train: Run, tmp_path: Path) -> None:
    run = train("killed")
    next(run)
    run.close()
    (tmp_path / "killed" / "checkpoint.pt").unlink()
    list(train("killed"))
    assert [r["epoch"] for r in RunFolder(tmp_path / "killed").records()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("student", "match"),
    [
        ("torchvision:alexnet", "cannot run on a batch of shape"),
        ("tests.train.odd_networks:of_another_class_count", r"it gave \(2, 7\)"),
        ("tests.train.odd_networks:of_two_outputs", "it gave tuple"),
    ],
)
def test_students_that_do_not_suit_are_refused_at_once(
    train: Run, tmp_path: Path, student: str, match: str
) -> None:
    for method in ("ce", "classroom"):
        with pytest.raises(UsageError, match=match):
            next(train("odd", student=student, method=method))
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"view_seed": -1},
        {"views": 0},
        {"recipe": "none", "views": 5},
        {"momentum": -1.0},
        {"weight_decay": -1.0},
        {"lr": float("inf")},
        {"lr": float("nan")},
        {"epochs": 0},
        {"checkpoint_every": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(train: Run, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        next(train("no", store=None, method="ce", **options))
