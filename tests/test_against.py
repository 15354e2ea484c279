"""`inspect --against`: equal to a plain loop over the stored rows, and clear about mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import kdcache
from kdcache.checkpoints import read_state_dict, save_weights
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.errors import CheckpointError, DatasetError, MissingTargets, StoreMismatch, UsageError
from kdcache.mentors import Mentor
from kdcache.models import build_network
from kdcache.store import TargetStore

NAMES = ["r14", "r8"]


@pytest.fixture
def store(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    return kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "store", views=2)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """An untrained r8 of another seed: about as sure as the untrained mentors."""
    path = tmp_path / "resnet8.safetensors"
    save_weights(path, build_network("r8", 10, seed=7), {})
    return path


def train(store: TargetStore, out: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {"student": "r8", "store": str(store.root), "batch_size": 16}
    return kdcache.train_student(**{**defaults, **options, "out": str(out)})


def plain_loop(
    store: TargetStore, images: ImageDataset, network: torch.nn.Module, views: list[int], tau: float
) -> dict[str, Any]:
    """Every number anew, sample by sample, in float64, from the formulas."""
    rows: list[dict[str, Any]] = []
    network.eval()
    for view in views:
        for index in store.index_N:
            one = np.array([index])
            pixels = torch.from_numpy(store.recipe(images.images(one), one, view))
            with torch.no_grad():
                logits_C = network(images.preprocessing(pixels))[0].double()
            label = int(images.labels(one)[0])
            a_s = torch.softmax(logits_C, 0)[label].item()
            targets_MC = torch.from_numpy(store.targets(view, one, NAMES)[0]).double()
            a_M = torch.softmax(targets_MC, 1)[:, label].tolist()
            rows.append(
                {
                    "label": label,
                    "right": int(logits_C.argmax()) == label,
                    "right_M": [int(row.argmax()) == label for row in targets_MC],
                    "a_s": a_s,
                    "a_M": a_M,
                    "active_M": [a >= a_s for a in a_M],
                    "gap_M": [max(0.0, 1 - a_s / a) for a in a_M],
                    "weight_M": [len(a_M) * a / (a_s + sum(a_M)) for a in a_M],
                }
            )
    mentors = []
    for m, name in enumerate(NAMES):
        taught = [row for row in rows if row["active_M"][m]]
        mentors.append(
            {
                "name": name,
                "accuracy": 100 * np.mean([row["right_M"][m] for row in rows]),
                "confidence": np.mean([row["a_M"][m] for row in rows]),
                "active": len(taught) / len(rows),
                "weight": np.mean([row["weight_M"][m] for row in taught]),
                "gap": np.mean([row["gap_M"][m] for row in taught]),
                "temperature": np.mean([1 + tau * row["gap_M"][m] for row in taught]),
                "active_by_class": [
                    np.mean([row["active_M"][m] for row in rows if row["label"] == c])
                    for c in range(10)
                ],
            }
        )
    return {
        "accuracy": 100 * np.mean([row["right"] for row in rows]),
        "confidence": np.mean([row["a_s"] for row in rows]),
        "untaught": np.mean([not any(row["active_M"]) for row in rows]),
        "rows_C": [sum(row["label"] == c for row in rows) for c in range(10)],
        "mentors": mentors,
    }


@pytest.mark.parametrize(("views", "tau"), [(None, 12.0), (2, 4.0), ((1,), 12.0)])
def test_it_is_what_a_plain_loop_finds(
    store: TargetStore, digits: ImageDataset, student: Path, views: Any, tau: float
) -> None:
    found = kdcache.inspect_classroom(store, student, views=views, tau=tau, device="cpu")
    chosen = {None: [0], 2: [0, 1], (1,): [1]}[views]
    expected = plain_loop(store, digits, build_network("r8", 10, seed=7), chosen, tau)
    assert found["views"] == chosen
    assert found["samples"] == 100
    assert found["rows"] == 100 * len(chosen)
    assert found["student"]["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["student"]["confidence"] == pytest.approx(expected["confidence"], rel=1e-5)
    assert found["untaught"] == pytest.approx(expected["untaught"])
    assert found["classes"]["rows"] == expected["rows_C"]
    assert 0 < expected["mentors"][0]["active"] < 1
    for ours, theirs in zip(found["mentors"], expected["mentors"], strict=True):
        assert ours["name"] == theirs.pop("name")
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-4), (ours["name"], key)
    json.dumps(found)


def test_no_mentor_is_loaded(
    store: TargetStore, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a mentor was loaded")

    for name in ("load_mentor", "load_mentors", "find_checkpoint"):
        monkeypatch.setattr(f"kdcache.mentors.{name}", refuse)
    monkeypatch.setattr("kdcache.mentor_library.find_checkpoint", refuse)
    assert kdcache.inspect_classroom(store, student)["rows"] == 100


@pytest.mark.parametrize("others", [0, 1, 20])
def test_who_never_and_who_hardly_teaches(
    digits_mentors: list[Mentor], tmp_path: Path, others: int
) -> None:
    """A student right on class 3 beyond doubt and wrong elsewhere; few samples are elsewhere."""
    sure = build_network("r8", 10, seed=7).state_dict()
    (bias,) = [key for key in sure if key.endswith("bias") and key.startswith(("fc", "linear"))]
    sure[bias][3] += 60.0
    student = tmp_path / "resnet8.safetensors"
    save_weights(student, dict(sure), {})
    whole = kdcache.open_dataset("digits")
    labels_N = whole.labels(whole.index_N)
    threes = whole.index_N[labels_N == 3]
    few = whole.subset(np.concatenate([threes, whole.index_N[labels_N == 5][:others]]))
    store = kdcache.precompute_targets(few, digits_mentors, store=tmp_path / "few", views=1)
    found = kdcache.inspect_classroom(store, student)
    assert found["rows"] == len(threes) + others > 100
    assert found["never"] == ([] if others else NAMES)
    assert found["hardly"] == (NAMES if others == 1 else [])
    assert found["classes"]["untaught"][3] == 1
    assert found["classes"]["untaught"][4] is None
    for mentor in found["mentors"]:
        assert mentor["active_by_class"][3] == 0
        assert mentor["active_by_class"][5] == (1 if others else None)
        assert (mentor["temperature"] is None) == (others == 0)
    told = run_cli("inspect", store.root, "--against", student).output
    assert ("would never teach: r14" in told) == (others == 0)
    assert ("would teach less than 1%: r8" in told) == (others == 1)


@pytest.fixture
def classroom(tmp_path: Path) -> TargetStore:
    """Two mentors that know something, over four views of 300 digits."""
    for name in ("r14", "r20"):
        for _ in kdcache.train_mentor(name, dataset="digits", epochs=4, samples=300, eval_every=4):
            pass
    dataset = kdcache.open_dataset("digits", samples=300)
    return kdcache.precompute_targets(dataset, ["r14", "r20"], store=tmp_path / "S", views=4)


def test_the_classroom_changes_from_the_first_epoch_to_the_last(
    classroom: TargetStore, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 10, "views": 4, "switches": {"task_weight": "one"}}
    run = train(classroom, tmp_path / "run", eval_every=10, **options)
    next(run)
    first = kdcache.inspect_classroom(classroom, tmp_path / "run", views=2)
    with pytest.warns(UserWarning, match="only 4 views are usable"):
        list(run)
    last = kdcache.inspect_classroom(classroom, tmp_path / "run", views=2)
    assert (first["student"]["epochs"], last["student"]["epochs"]) == (1, 10)
    assert last["student"]["accuracy"] > first["student"]["accuracy"] + 20
    assert last["untaught"] > first["untaught"] + 0.1
    for before, after in zip(first["mentors"], last["mentors"], strict=True):
        assert after["active"] < before["active"]
        assert after["accuracy"] == before["accuracy"]
    # A finished student is the run's last step, and its file says the same.
    finished = kdcache.inspect_classroom(
        classroom, tmp_path / "run" / "student.safetensors", views=2
    )
    assert finished["mentors"] == last["mentors"]
    assert finished["student"]["epochs"] is None
    (tmp_path / "run" / "checkpoint.pt").unlink()
    assert kdcache.inspect_classroom(classroom, tmp_path / "run", views=2) == finished
    mentor = kdcache.inspect_classroom(classroom, tmp_path / "home" / "mentors" / "digits"
                                       / "resnet14.safetensors")  # fmt: skip
    of_itself = {m["name"]: m for m in mentor["mentors"]}["r14"]
    assert of_itself["gap"] < 0.02  # float16 rows of the very same network
    assert mentor["student"]["accuracy"] == of_itself["accuracy"]


def test_a_run_stopped_within_an_epoch(store: TargetStore, tmp_path: Path) -> None:
    run = train(store, tmp_path / "run", epochs=2, checkpoint_every=2, should_stop=polled(3))
    with pytest.raises(kdcache.errors.Stopped):
        list(run)
    found = kdcache.inspect_classroom(store, tmp_path / "run" / "checkpoint.pt")["student"]
    assert (found["epochs"], found["steps"], found["network"]) == (0, 4, "resnet8")


def polled(times: int) -> Callable[[], bool]:
    polls = iter(range(times))
    return lambda: next(polls, None) is None


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_on_the_command_line(store: TargetStore, student: Path) -> None:
    plain = run_cli("inspect", store.root, "--against", student, "--tau", 4)
    assert plain.exit_code == 0, plain.output
    for part in (
        "student      resnet8",
        "view 0 of 100 samples",
        "ClassroomKD per sample, tau 4",
        "nobody",
    ):
        assert part in plain.output
    found = json.loads(run_cli("inspect", store.root, "--against", student, "--json").stdout)
    assert found["fingerprint"] == store.fingerprint
    assert [m["name"] for m in found["against"]["mentors"]] == NAMES
    alone = run_cli("inspect", store.root, "--views", 1, "--tau", 3)
    assert alone.exit_code == 2
    assert "--views, --tau: only with --against" in alone.output
    one = run_cli("inspect", store.root, "--against", student, "--mentors", "r8", "--json")
    assert [m["name"] for m in json.loads(one.stdout)["against"]["mentors"]] == ["r8"]


def test_students_that_are_not_of_this_store(
    store: TargetStore, student: Path, tmp_path: Path
) -> None:
    many = tmp_path / "resnet14.safetensors"
    save_weights(many, build_network("r14", 100, seed=0), {})
    with pytest.raises(CheckpointError, match="has 100 classes, the dataset has 10"):
        kdcache.inspect_classroom(store, many)
    other = tmp_path / "resnet20.safetensors"
    save_weights(other, build_network("r20", 10, seed=0), {"dataset": "cifar10"})
    with pytest.raises(UsageError, match=r"was trained on 'cifar10', the store .* is of 'digits'"):
        kdcache.inspect_classroom(store, other)
    with pytest.raises(CheckpointError, match="not a checkpoint of this"):
        kdcache.inspect_classroom(store, student, network="r14")
    nameless = tmp_path / "mine.safetensors"
    save_weights(nameless, build_network("r8", 10, seed=0), {})
    with pytest.raises(UsageError, match="unknown network 'mine'"):
        kdcache.inspect_classroom(store, nameless)
    assert kdcache.inspect_classroom(store, nameless, network="r8")["rows"] == 100


def test_damaged_and_missing_students(store: TargetStore, student: Path, tmp_path: Path) -> None:
    run = train(store, tmp_path / "run", epochs=2)
    next(run)
    run.close()
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        kdcache.inspect_classroom(store, tmp_path / "run")
    checkpoint.unlink()
    with pytest.raises(CheckpointError, match="has not saved anything yet"):
        kdcache.inspect_classroom(store, tmp_path / "run")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        kdcache.inspect_classroom(store, tmp_path / "nothing.safetensors")
    weights = read_state_dict(student)
    save_weights(student, {k: v * 1e30 if "weight" in k else v for k, v in weights.items()}, {})
    with pytest.raises(CheckpointError, match="gives NaN or infinite logits"):
        kdcache.inspect_classroom(store, student)


def test_data_views_and_mentors_that_are_not_there(
    store: TargetStore, student: Path, tmp_path: Path
) -> None:
    with pytest.raises((DatasetError, StoreMismatch)):
        kdcache.inspect_classroom(store, student, dataset="cifar10", data_dir=str(tmp_path))
    with pytest.raises(MissingTargets, match="the views asked for are"):
        kdcache.inspect_classroom(store, student, views=5)
    with pytest.raises(MissingTargets, match="no mentor 'r110'"):
        kdcache.inspect_classroom(store, student, mentors=["r110"])
    with pytest.raises(UsageError, match="tau must be a finite number"):
        kdcache.inspect_classroom(store, student, tau=-1.0)


def test_a_run_does_not_name_code_to_run(
    store: TargetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(store, tmp_path / "run", student="tests.train.dropout_network:build", epochs=1)
    list(run)
    with pytest.raises(UsageError, match=r"would run code.*--network"):
        kdcache.inspect_classroom(store, tmp_path / "run")
    named = "tests.train.dropout_network:build"
    found = kdcache.inspect_classroom(store, tmp_path / "run", network=named)
    assert found["student"]["epochs"] == 1


def test_on_real_images(real_data: Path, tmp_path: Path) -> None:
    """r20 against a store of its own rows and a stronger mentor's."""
    dataset = kdcache.open_dataset("cifar100", samples=200)
    store = kdcache.precompute_targets(
        dataset, ["r20", "r56"], store=tmp_path / "S", views=1, encoder="float32"
    )
    student = real_data / "mentors" / "cifar100" / "resnet20.pth"
    found = kdcache.inspect_classroom(store, student)
    itself, stronger = found["mentors"]
    assert found["student"]["accuracy"] == itself["accuracy"]
    assert itself["gap"] < 1e-3
    assert stronger["active"] > 0.5
    assert stronger["confidence"] > found["student"]["confidence"]


@pytest.mark.parametrize("views", [0, ()])
def test_no_views_are_wrong_usage(store: TargetStore, tmp_path: Path, views: int) -> None:
    with pytest.raises(UsageError, match="views must be at least 1"):
        kdcache.inspect_classroom(store, tmp_path, views=views)
