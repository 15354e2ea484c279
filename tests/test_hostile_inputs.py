"""Sidecars, metadata and configs of others: read, or one clear error; none names code to run."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.config import read_toml
from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.errors import CheckpointError, KdcacheError, UsageError
from kdcache.mentors import load_mentor
from kdcache.models import build_network
from kdcache.train.evaluation import evaluate_checkpoint

Maker = Callable[[Path], object]


def holds(text: str | bytes) -> Maker:
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def stating(mean: object, std: object) -> str:
    return json.dumps({"preprocessing": {"mean": mean, "std": std}})


ANYWHERE: dict[str, tuple[Maker, str]] = {
    "fifo": (os.mkfifo, "it is a FIFO"),
    "folder": (lambda p: p.mkdir(), "it is a folder"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "it is a device"),
    "circle": (lambda p: p.symlink_to(p.name), "it is behind links in a circle"),
    "large": (holds(b"#" * (2**20 + 1)), "it has 1,048,577 bytes or more, at most 1,048,576"),
}
SIDECARS: dict[str, tuple[Maker, str]] = {
    **ANYWHERE,
    "deep": (holds("[" * 500_000), "nested more than 100 deep"),
    "latin-1": (holds(b'{"a": "\xe9"}'), "not UTF-8 text"),
    "twice": (holds('{"preprocessing": 1, "preprocessing": 2}'), "the key 'preprocessing' twice"),
    "digits": (holds(f'{{"a": {"9" * 5000}}}'), "an integer of more than 20 digits"),
    "NaN": (holds('{"preprocessing": {"mean": [NaN], "std": [1]}}'), "it has NaN"),
    "no object": (holds("[1]"), "it is a list"),
    "text as mean": (holds(stating("123", "123")), "preprocessing must look like"),
    "truth as mean": (holds(stating([True] * 3, [1] * 3)), "preprocessing must look like"),
    "texts as std": (holds(stating([0] * 3, ["1"] * 3)), "preprocessing must look like"),
    "lists as mean": (holds(stating([[0]] * 3, [1] * 3)), "preprocessing must look like"),
    "half": (holds('{"preprocessing": {"mean": [0, 0, 0]}}'), "preprocessing must look like"),
    "long": (holds(stating("x" * 10**6, 0)), "preprocessing must look like"),
    "std 0": (holds(stating([0] * 3, [1, 0, 1])), "std > 0"),
    "std 0 in float32": (holds(stating([0] * 3, [1, 1e-60, 1])), "std > 0"),
    "beyond float32": (holds(stating([1e300, 0, 0], [1, 1, 1])), "one number a channel"),
    "2 channels": (holds(stating([0] * 2, [1] * 2)), "has 2 channels, the images 3"),
    "many channels": (holds(stating([0] * 99999, [1] * 99999)), "has 99,999 channels"),
}


@pytest.mark.parametrize("kind", SIDECARS)
def test_sidecars(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path], kind: str
) -> None:
    checkpoint = digits_checkpoint("r8")
    make, reason = SIDECARS[kind]
    make(checkpoint.with_suffix(".json"))
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_mentor("r8", digits, checkpoint)
    assert str(checkpoint.with_suffix(".json")) in str(caught.value)
    assert len(str(caught.value)) < 800
    assert time.monotonic() - started < 2


CONFIGS: dict[str, tuple[Maker, str]] = {
    **ANYWHERE,
    "missing": (lambda p: None, "cannot read the config .*No such file"),
    "deep lists": (holds("a = " + "[" * 200_000), "nested too deep|not TOML"),
    "deep tables": (holds("a = " + "{a = " * 5000 + "1" + "}" * 5000), "nested too deep"),
    "101 deep": (holds("a = " + "[" * 101 + "]" * 101), "nested more than 100 deep"),
    "deep header": (holds("[" + ".".join("a" * 900) + "]"), "nested more than 100 deep"),
    # tomllib takes hours for this one
    "long dotted key": (holds(".".join("a" * 500_000) + " = 1"), "more than 1,000 dots"),
    "latin-1": (holds(b'a = "\xe9"'), "is not TOML"),
    "twice": (holds("a = 1\na = 2"), "is not TOML"),
    "digits": (holds("a = " + "9" * 30), "an integer of more than 20 digits"),
    "negative digits": (holds("a = [-1" + "0" * 20 + "]"), "an integer of more than 20 digits"),
    "thousands of digits": (holds("a = " + "9" * 5000), "is no config"),
    "hexadecimal digits": (holds("a = 0x" + "f" * 90_000), "an integer of more than 20 digits"),
    "nan": (holds("lr = nan"), "a number that is not finite: nan"),
    "infinite": (holds("lr = -inf"), "a number that is not finite"),
    "overflow": (holds("lr = 1e999"), "a number that is not finite: 1e999"),
    "NUL": (holds('store = "a\\u0000b"'), "a NUL character"),
    "no TOML": (holds('{"a": 1}'), "is not TOML"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.toml"
    make, reason = CONFIGS[kind]
    make(path)
    started = time.monotonic()
    with pytest.raises(UsageError, match=reason) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - started < 2


def test_plain_configs_are_read(tmp_path: Path) -> None:
    text = f"lr = 5e-2\nviews = [1, 2]\nseed = {2**63 - 1}\n[switches]\ntau = 12.0\n"
    (tmp_path / "a.toml").write_text(text)
    assert read_toml(tmp_path / "a.toml") == {
        "lr": 0.05,
        "views": [1, 2],
        "seed": 2**63 - 1,
        "switches": {"tau": 12.0},
    }


keys = st.sampled_from(
    [
        *("epochs", "lr", "views", "switches", "checkpoints", "checkpoint", "environment", "store"),
        *("mentors", "x", "tau", "out", "temperature", "dataset", "device", "channels-last"),
        *("samples", "method", "targets", "student"),
    ]
)
values = st.recursive(
    st.integers(-(10**9), 10**9)
    | st.booleans()
    | st.text("ab\0é\n", max_size=4)
    | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=6,
)


@given(config=st.dictionaries(keys, values, max_size=4))
def test_a_config_of_wrong_types_is_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, object]
) -> None:
    """The command stops at the dataset, which is not there, or before it with one error."""
    import tomli_w

    folder = tmp_path_factory.getbasetemp()
    (folder / "odd.toml").write_text(tomli_w.dumps(config), encoding="utf-8", newline="")
    options = ["--config", str(folder / "odd.toml"), "--dataset", "cifar100", "--targets", "cache"]
    result = CliRunner().invoke(
        main, ["train-student", *options, "--data-dir", str(folder / "none")]
    )
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)


# Names that would run code


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the current folder that leaves a trace when it is imported."""
    (tmp_path / "bait.py").write_text("open('trace', 'w').close()\ndef build(n): ...\n")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("bait", None)
    return tmp_path / "trace"


@pytest.mark.parametrize("entry", ["architecture", "dataset"])
def test_metadata_cannot_name_code_to_run(tmp_path: Path, bait: Path, entry: str) -> None:
    named = {"architecture": "resnet8", "dataset": "digits", entry: "bait:build"}
    save_weights(tmp_path / "a.safetensors", build_network("r8", 10, seed=0), named)
    option = {"architecture": "--network", "dataset": "--dataset"}[entry]
    message = f"'bait:build', which would run code.*{option}"
    with pytest.raises(UsageError, match=message):
        evaluate_checkpoint(tmp_path / "a.safetensors")
    assert not bait.exists()
    given: dict[str, Any] = {option.removeprefix("--"): "bait:build"}
    with pytest.raises(KdcacheError):  # asked for by name it is imported; it builds nothing
        evaluate_checkpoint(tmp_path / "a.safetensors", **given)
    assert bait.exists()


def test_file_and_folder_names_cannot_either(tmp_path: Path, bait: Path) -> None:
    for path in (tmp_path / "digits" / "bait:build.pth", tmp_path / "bait:build" / "resnet8.pth"):
        save_weights(path.with_suffix(".safetensors"), build_network("r8", 10, seed=0), {})
        with pytest.raises(UsageError, match="which would run code"):
            evaluate_checkpoint(path.with_suffix(".safetensors"))
    assert not bait.exists()


@pytest.mark.parametrize("stated", ["", "[1]", "NaN", "[" * 10_000, '{"mean": [0], "std": [1]}'])
def test_metadata_that_states_no_preprocessing(tmp_path: Path, stated: str) -> None:
    path = tmp_path / "a.safetensors"
    named = {"architecture": "resnet8", "dataset": "digits", "preprocessing": stated}
    save_weights(path, build_network("r8", 10, seed=0), named)
    with pytest.raises(CheckpointError, match=re.escape(str(path))) as caught:
        evaluate_checkpoint(path)
    assert "states its preprocessing wrongly" in str(caught.value)


def test_a_name_of_a_million_letters_makes_a_short_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_weights(path, build_network("r8", 10, seed=0), {"architecture": "x" * 10**6})
    with pytest.raises(KdcacheError, match="unknown network") as caught:
        evaluate_checkpoint(path)
    assert len(str(caught.value)) < 1500


def test_preprocessing_takes_numbers_only() -> None:
    good = Preprocessing.from_description({"mean": [0, 0.5], "std": [1, 2]}, 2)
    assert good == Preprocessing(mean=(0.0, 0.5), std=(1.0, 2.0))
    wrongs: list[object] = [None, 5, [], {"mean": 1, "std": 1}, {"mean": [10**400], "std": [1]}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="preprocessing must look like"):
            Preprocessing.from_description(wrong)
