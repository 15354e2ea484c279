"""A sweep's students are those that are trained alone; what they learn from is read once."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kdcache
from kdcache import TrainConfig
from kdcache.cli import main
from kdcache.errors import Stopped, UsageError
from kdcache.store import BlockLoader, TargetStore
from kdcache.train.run_folder import RunFolder
from tests.train.comparing import same_run, timeless
from tests.train.conftest import Run
from tests.train.test_resuming import stop_at

EPOCHS, STEPS = 3, 6  # steps an epoch
Configs = Callable[..., list[TrainConfig]]
VARIED: list[dict[str, Any]] = [
    {"seed": 1},
    {"seed": 2, "switches": {"gate": "soft"}, "lr": 0.02},
    {"seed": 1, "student": "r14", "method": "average", "batch_size": 20},
    {"seed": 3, "method": "ce"},
    {"seed": 4, "student": "tests.train.dropout_network:build", "epochs": 2},
]


@pytest.fixture
def configs(tmp_path: Path, store: TargetStore) -> Configs:
    """Configs of the runs that `train` makes, in folders of their own."""

    def make(folder: str, varied: list[dict[str, Any]] = VARIED) -> list[TrainConfig]:
        common: dict[str, Any] = {
            "student": "r8",
            "dataset": "digits",
            "samples": 100,
            "store": str(store.root),
            "epochs": EPOCHS,
            "batch_size": 16,
        }
        return [
            TrainConfig(**{**common, **options, "out": str(tmp_path / folder / str(i))})
            for i, options in enumerate(varied)
        ]

    return make


def test_each_student_is_the_one_it_would_be_alone(
    train: Run, configs: Configs, tmp_path: Path
) -> None:
    swept = configs("swept")
    found: list[list[dict[str, Any]]] = [[] for _ in swept]
    order = []
    for config, record in kdcache.train_sweep(swept):
        position = next(i for i, one in enumerate(swept) if one is config)
        found[position].append(record)
        order.append((record["epoch"], position))
    assert sorted(order) == order, "an epoch of each in turn"
    for i, options in enumerate(VARIED):
        alone = list(train(f"alone/{i}", **options))
        assert timeless(alone) == timeless(found[i])
        assert same_run(tmp_path / "alone" / str(i), tmp_path / "swept" / str(i))


@pytest.mark.parametrize("step", [1, 7, 20, 43, 69])
def test_a_sweep_that_was_stopped_goes_on(configs: Configs, tmp_path: Path, step: int) -> None:
    """Also when one of its students went on alone in between."""
    whole = configs("whole", VARIED[:4])
    list(kdcache.train_sweep(whole))
    swept = configs("swept", VARIED[:4])
    with pytest.raises(Stopped):
        list(kdcache.train_sweep(swept, should_stop=stop_at(step)))
    list(kdcache.train_student(swept[1]))
    told: list[str] = []
    list(kdcache.train_sweep(swept, notify=told.append))
    assert any("is finished" in message for message in told)
    for i in range(len(swept)):
        assert same_run(tmp_path / "swept" / str(i), tmp_path / "whole" / str(i))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The views of the chunks that are read, in order."""
    views: list[int] = []

    load = BlockLoader.load

    def counted(own: BlockLoader, stored: Any, view: int, block: int, rows: Any) -> None:
        views.append(view)
        load(own, stored, view, block, rows)

    monkeypatch.setattr(BlockLoader, "load", counted)
    return views


def test_a_view_is_read_once_however_many_students_learn_from_it(
    configs: Configs, reads: list[int]
) -> None:
    list(kdcache.train_student(configs("alone", [{"seed": 9}])[0]))
    alone = list(reads)
    assert set(alone) == {0, 1, 2}
    reads.clear()
    list(kdcache.train_sweep(configs("swept", [{"seed": seed} for seed in range(4)])))
    assert reads == alone


def run_cli(*arguments: object, expect: int = 0) -> Result:
    ended = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ended.exit_code == expect, ended.output
    return ended


def test_seeds_on_the_command_line(store: TargetStore, tmp_path: Path) -> None:
    options = ["--student", "r8", "--dataset", "digits", "--samples", "100", "--store", store.root,
               "--epochs", "2", "--batch-size", "16"]  # fmt: skip
    told = run_cli("train-student", *options, "--seeds", "0,2", "--out", tmp_path / "both").stdout
    assert "seed 0  epoch 1/2" in told
    assert "seed 2  epoch 2/2" in told
    assert "last epoch over 2 seeds: test top-1" in told
    for seed in (0, 2):
        run_cli("train-student", *options, "--seed", seed, "--out", tmp_path / f"alone{seed}")
        assert same_run(tmp_path / f"alone{seed}", tmp_path / "both" / f"s{seed}")
    resumed = ["--seeds", "0,2", "--out", tmp_path / "both", "--resume"]
    assert "nothing is left to do" in run_cli("train-student", *options, *resumed).stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--seeds", "0,1", "--seed", "0"], "--seed and --seeds are both given"),
        (["--seeds", "0,0"], "different numbers"),
        (["--seeds", "a"], "expected numbers"),
        (["--seeds", "-1"], "different numbers from 0"),
    ],
)
def test_seeds_that_make_no_sense(
    store: TargetStore, tmp_path: Path, given: list[str], expected: str
) -> None:
    options = ["--store", store.root, "--out", tmp_path / "run"]
    ended = run_cli("train-student", *options, *given, expect=2)
    assert expected in ended.stderr


def test_runs_need_folders_of_their_own(configs: Configs) -> None:
    first, second = configs("swept")[:2]
    with pytest.raises(UsageError, match=r"two runs of the sweep.*swept/0"):
        next(kdcache.train_sweep([first, second, first]))
    with pytest.raises(UsageError, match="at least one"):
        next(kdcache.train_sweep(itertools.islice([first], 0)))
    assert not RunFolder(Path(first.run_folder)).config.exists()
