"""A user's mistakes: one clear message, the right exit code, no traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.models import build_network
from kdcache.store import TargetStore, open_store
from tests.store.small import alter_attributes

Kdcache = Callable[..., Result]


@pytest.fixture
def kdcache() -> Kdcache:
    """Runs a command line; anything but a clean exit with a message is a failure."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    return run


@pytest.fixture
def digits_store(
    tmp_path: Path, kdcache: Kdcache, digits_checkpoint: Callable[[str], Path]
) -> Path:
    done = kdcache(
        "precompute", "--mentors", "r8,r14", "--dataset", "digits", "--samples", 100, "--views", 2,
        "--store", tmp_path / "S", "--checkpoint", f"r8={digits_checkpoint('r8')}",
        "--checkpoint", f"resnet14={digits_checkpoint('r14')}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return tmp_path / "S"


def refused(result: Result, *parts: str, exit_code: int = 2) -> None:
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output


PRECOMPUTE = ("precompute", "--dataset", "digits", "--mentors")


def test_unknown_names_come_with_the_known_ones(kdcache: Kdcache, tmp_path: Path) -> None:
    refused(kdcache(*PRECOMPUTE, "r21"), "unknown network 'r21'", "Did you mean", "r20")
    refused(
        kdcache("precompute", "--mentors", "r8", "--dataset", "cifar-100"),
        "unknown dataset 'cifar-100'",
        "Did you mean cifar100",
        "module:factory",
    )
    refused(kdcache("train-student", "--method", "clasroom"), "Did you mean classroom")
    refused(kdcache("train-student", "--schedule", "step"), "unknown schedule", "released")
    refused(kdcache("train-student", "--student", "r9"), "unknown network 'r9'")
    refused(kdcache("precomput"), "No such command")
    refused(kdcache(*PRECOMPUTE, ","), "name at least one")


def test_missing_checkpoints_and_data_say_where_they_were_looked_for(
    kdcache: Kdcache, kdcache_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused(
        kdcache(*PRECOMPUTE, "r8"),
        str(kdcache_home / "mentors" / "digits" / "resnet8"),
        "Four ways to get one",
        "kdcache train-mentor r8",
        "--checkpoint r8=FILE",
    )
    refused(kdcache(*PRECOMPUTE, "r8", "--checkpoint", "r8"), "NAME=FILE")
    refused(kdcache(*PRECOMPUTE, "r8", "--checkpoint", "r8=nowhere.pth"), "nowhere.pth")
    refused(kdcache(*PRECOMPUTE, "r8", "--checkpoint", "r14=x.pth"), "names r14", "that run are r8")
    twice = ("--checkpoint", "r8=x.pth", "--checkpoint", "resnet8=y.pth")
    refused(kdcache(*PRECOMPUTE, "r8", *twice), "two checkpoints, x.pth and y.pth")
    train = ("train-student", "--dataset", "digits", "--out", tmp_path / "run")
    refused(kdcache(*train, "--checkpoint", "r8=x.pth"), "--checkpoint is for --targets online")


def test_foreign_and_hostile_checkpoints_are_refused(kdcache: Kdcache, tmp_path: Path) -> None:
    wide = tmp_path / "wide.safetensors"
    save_weights(wide, build_network("r8", 100, seed=0), {})
    refused(
        kdcache(*PRECOMPUTE, "r8", "--checkpoint", f"r8={wide}"),
        "has 100 classes, the dataset has 10",
    )
    deep = tmp_path / "deep.safetensors"
    save_weights(deep, build_network("r14", 10, seed=0), {})
    refused(kdcache(*PRECOMPUTE, "r8", "--checkpoint", f"r8={deep}"), "does not know", "layer1.1")
    trap = tmp_path / "trap.pth"
    trap.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    refused(kdcache(*PRECOMPUTE, "r8", "--checkpoint", f"r8={trap}"), "was not loaded", "system")
    assert not (tmp_path / "ran").exists()


def test_stores_of_something_else_show_both_sides(kdcache: Kdcache, digits_store: Path) -> None:
    train = ("train-student", "--student", "r8", "--epochs", 1, "--store", digits_store)
    digits = (*train, "--dataset", "digits", "--out", digits_store.parent / "run")
    refused(kdcache(*digits, "--view-seed", 1), "view_seed", "Leave those options out")
    refused(kdcache(*digits, "--views", 3), "views asked for are 0 to 2; complete", "0, 1")
    refused(kdcache(*digits, "--mentors", "r8,r20"), "no mentor 'r20'; it has r14, r8")
    refused(kdcache(*digits, "--samples", 300), "holds no targets for")
    refused(kdcache(*digits, "--method", "kd"), "exactly one mentor")
    refused(kdcache(*digits, "--tau", "warm"), "'warm' is not a valid float")
    refused(kdcache(*digits, "--gate", "open"), "gate", "'open'")
    refused(
        kdcache(*PRECOMPUTE, "r8", "--store", digits_store, "--checkpoint", "r8=x.pth"), "x.pth"
    )
    refused(kdcache(*digits, "--resume"), "no checkpoint to go on from")


def test_other_formats_and_other_folders_are_not_opened(
    kdcache: Kdcache, digits_store: Path, tmp_path: Path
) -> None:
    refused(kdcache("inspect", tmp_path / "nothing"), "does not exist", "kdcache precompute")
    refused(kdcache("inspect", tmp_path), "is not (part of) a kdcache store")
    refused(kdcache("inspect", "nope://bucket/store"), "nope://bucket/store", "Protocol not known")
    (tmp_path / "file").write_text("text")
    refused(kdcache("inspect", tmp_path / "file"), "is not (part of) a kdcache store")
    manifest = digits_store / "zarr.json"
    whole = manifest.read_bytes()
    alter_attributes(manifest, lambda attributes: attributes.update(format=2))
    refused(kdcache("inspect", digits_store), "has store format 2", "reads format 1")
    manifest.write_bytes(whole)
    alter_attributes(manifest, lambda attributes: attributes.update(format=2), reseal=False)
    damaged = kdcache("inspect", digits_store)
    refused(damaged, "zarr.json is damaged: its content is not what was sealed", exit_code=1)


def test_damage_is_an_error_at_training_and_healed_by_precompute(
    kdcache: Kdcache, digits_store: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    store: TargetStore = open_store(digits_store)
    chunk = store.mentor("r8").array.chunk(1, 0)
    content = bytearray(chunk.read_bytes())
    content[7] ^= 64
    chunk.write_bytes(content)
    train = (
        "train-student", "--student", "r8", "--dataset", "digits", "--samples", 100, "--epochs", 2,
        "--batch-size", 16, "--store", digits_store, "--out", digits_store.parent / "run",
    )  # fmt: skip
    failed = kdcache(*train)
    refused(failed, "mentor 'r8', view 1, block 0", "kdcache precompute", exit_code=1)
    healed = kdcache(
        "precompute", "--mentors", "r8,r14", "--dataset", "digits", "--samples", 100,
        "--store", digits_store, "--checkpoint", f"r8={digits_checkpoint('r8')}",
        "--checkpoint", f"r14={digits_checkpoint('r14')}",
    )  # fmt: skip
    assert "r8: 1 chunks reused, 1 to compute" in healed.output
    assert "r14: 2 chunks reused, 0 to compute" in healed.output
    again = kdcache(*train)
    assert again.exit_code == 0, again.output
    assert "going on" in again.output


def test_config_files_give_options_and_the_command_line_wins(
    kdcache: Kdcache, digits_store: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'student = "r8"\ndataset = "digits"\nstore = "{digits_store}"\nbatch_size = 16\n'
        f'epochs = 5\nmentors = ["r8"]\nout = "{tmp_path / "run"}"\n[switches]\ntau = 4.0\n'
    )
    done = kdcache("train-student", "--config", config, "--epochs", 1)
    assert done.exit_code == 0, done.output
    assert "epoch 1/1" in done.output
    resolved = (tmp_path / "run" / "config.toml").read_text()
    assert "tau = 4.0" in resolved
    again = kdcache("train-student", "--config", tmp_path / "run" / "config.toml")
    assert again.exit_code == 0, again.output
    config.write_text("epoch = 5\n")
    refused(kdcache("train-student", "--config", config), "unknown key 'epoch'", "epochs")
    config.write_text("epochs = \n")
    refused(kdcache("train-student", "--config", config), "is not TOML")
    refused(kdcache("train-student", "--config", tmp_path / "no.toml"), "cannot read the config")


def test_inspect_json_has_the_promised_keys(kdcache: Kdcache, digits_store: Path) -> None:
    found = json.loads(kdcache("inspect", digits_store, "--json").output)
    assert {"format", "fingerprint", "dataset", "recipe", "views", "complete", "mentors"} <= set(
        found
    )
    assert found["complete"] is True
    assert [m["name"] for m in found["mentors"]] == ["r14", "r8"]
    assert all(0 <= m["accuracy"] <= 100 for m in found["mentors"])


def test_dry_run_writes_nothing(
    kdcache: Kdcache, tmp_path: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    done = kdcache(
        *PRECOMPUTE, "r8", "--views", 3, "--store", tmp_path / "D", "--dry-run",
        "--checkpoint", f"r8={digits_checkpoint('r8')}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "r8: 0 chunks reused, 3 to compute" in done.output
    assert "to write: 86.3 kB" in done.output  # 3 views x 1,438 samples x 10 classes x 2 bytes
    assert "nothing written" in done.output
    assert not (tmp_path / "D").exists()


def test_evaluate_reads_what_the_file_says(
    kdcache: Kdcache, digits_checkpoint: Callable[[str], Path]
) -> None:
    plain = digits_checkpoint("r8")
    refused(kdcache("evaluate", plain), "unknown network 'r8-0'")
    named = kdcache("evaluate", plain, "--network", "r8", "--dataset", "digits", "--json")
    assert json.loads(named.output)["samples"] == 359
    refused(kdcache("evaluate", plain, "--network", "r8"), "does not say its dataset")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("mentors = 5", "expected names, got 5"),
        ("mentors = [1, 2]", "expected names, got [1, 2]"),
        ("switches = 3", "must be tables"),
        ('checkpoints = "x"', "must be tables"),
        ("epochs = 2.7", "epochs must be of type integer, got 2.7"),
        ('lr = "fast"', "lr must be of type float, got 'fast'"),
        ("epochs = true", "epochs must be of type integer, got True"),
    ],
)
def test_config_values_of_the_wrong_type_are_refused(
    kdcache: Kdcache, tmp_path: Path, toml: str, message: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(toml + "\n")
    refused(kdcache("train-student", "--dataset", "digits", "--config", config), message)


def test_a_mentors_own_config_trains_it_again(kdcache: Kdcache, tmp_path: Path) -> None:
    first = kdcache("train-mentor", "r8", "--dataset", "digits", "--epochs", 1, "--out",
                    tmp_path / "m")  # fmt: skip
    assert first.exit_code == 0, first.output
    again = kdcache("train-mentor", "r8", "--config", tmp_path / "m" / "config.toml")
    assert again.exit_code == 0, again.output
    found = kdcache("evaluate", tmp_path / "home" / "mentors" / "digits" / "resnet8.safetensors")
    assert "resnet8 on digits (test, 359 samples)" in found.output
    refused(kdcache("evaluate", tmp_path / "m", "--split", "val"), "split must be train or test")
    (tmp_path / "m" / "student.safetensors").unlink()
    refused(kdcache("evaluate", tmp_path / "m"), "a run that is not finished")


def test_the_filter_is_only_warned_of_where_there_is_one(
    kdcache: Kdcache, digits_store: Path, tmp_path: Path
) -> None:
    train = ("train-student", "--student", "r8", "--store", digits_store, "--epochs", 1,
             "--batch-size", 16)  # fmt: skip
    average = kdcache(*train, "--method", "average", "--out", tmp_path / "average")
    assert average.exit_code == 0, average.output
    assert "filter idle" not in average.output
