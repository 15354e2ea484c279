"""Mistakes about poses: one clear message, the right exit code, no traceback, nothing left."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.models import build_network
from kdcache.store import TargetStore

Kdcache = Callable[..., Result]
SMALL = ("--recipe-option", "height=64", "--recipe-option", "width=64")


@pytest.fixture
def kdcache() -> Kdcache:
    """Runs a command line; anything but a clean exit with a message is a failure."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    return run


def refused(result: Result, *parts: str, exit_code: int = 2) -> None:
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in " ".join(result.output.split()), result.output


@pytest.fixture
def precompute(
    kdcache: Kdcache, sticks: Path, tmp_path: Path, checkpoints: dict[str, str]
) -> Kdcache:
    """A precompute of mbpose that is to be refused: no store is made."""

    def run(*arguments: object, checkpoint: object = checkpoints["mbpose"]) -> Result:
        result = kdcache(
            "precompute", "--dataset", "coco-keypoints", "--data-dir", sticks, "--device", "cpu",
            "--mentors", "mbpose", "--checkpoint", f"mbpose={checkpoint}", "--views", 1,
            "--store", tmp_path / "none", *arguments,
        )  # fmt: skip
        assert not (tmp_path / "none").exists()
        return result

    return run


@pytest.fixture
def train(kdcache: Kdcache, sticks: Path, tmp_path: Path) -> Kdcache:
    """A student of people that is to be refused: no run folder is made."""

    def run(*arguments: object) -> Result:
        result = kdcache(
            "train-student", "--dataset", "coco-keypoints", "--data-dir", sticks, "--student",
            "mbpose", "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--out",
            tmp_path / "none", *arguments,
        )  # fmt: skip
        assert not (tmp_path / "none").exists()
        return result

    return run


def test_networks_of_the_other_task(
    kdcache: Kdcache, sticks: Path, train: Kdcache, tmp_path: Path
) -> None:
    people = ("--dataset", "coco-keypoints", "--data-dir", sticks)
    refused(
        kdcache("precompute", *people, "--mentors", "r8"),
        "mentor 'r8' gives one number a class, expected one map a joint",
        "Pose networks are sb18",
    )
    refused(
        kdcache("precompute", "--dataset", "digits", "--mentors", "sb18"),
        "mentor 'sb18' gives one map a joint, expected one number a class",
    )
    refused(train("--student", "r20", "--method", "ce"), "student 'r20' gives one number a class")
    refused(kdcache("train-mentor", "r8", *people), "'r8' gives one number a class")
    out = ("--method", "ce", "--out", tmp_path / "none")
    refused(
        kdcache("train-student", "--dataset", "digits", "--student", "lp18", *out),
        "student 'lp18' gives one map a joint",
    )


def test_recipes(
    kdcache: Kdcache,
    precompute: Kdcache,
    train: Kdcache,
    tmp_path: Path,
    digits_checkpoint: Callable[[str], Path],
) -> None:
    for name in ("none", "crop-flip"):
        told = (
            f"recipe '{name}' is for images of one size",
            "take --recipe pose-affine or pose-crop",
        )
        refused(precompute("--recipe", name), *told)
        refused(train("--method", "ce", "--recipe", name), *told)
    told = "recipe 'pose-affine' is for people", "take --recipe crop-flip or none"
    digits = ("--dataset", "digits", "--recipe", "pose-affine")
    r8 = ("--checkpoint", f"r8={digits_checkpoint('r8')}", "--store", tmp_path / "none")
    refused(kdcache("precompute", *digits, "--mentors", "r8", *r8), *told)
    out = ("--method", "ce", "--out", tmp_path / "none")
    refused(kdcache("train-student", *digits, "--student", "r8", *out), *told)
    for option, message in {
        "heigth=64": "Did you mean height?",
        "height=65": "must be multiples of 32, up to 2048, got 65, 192",
        "height=1e12": "must be multiples of 32",
        "width=4096": "must be multiples of 32, up to 2048",
        "height=abc": "expected KEY=VALUE with a number or true, false",
        "height": "expected KEY=VALUE",
        "scale=2": "scale must lie in 0.0 to 0.9, got 2",
        "rotation=nan": "rotation must lie in 0.0 to 180.0, got nan",
        "flip=true": "flip must lie in 0.0 to 1.0, got True",
    }.items():
        refused(precompute("--recipe-option", option), message)
        refused(train("--method", "ce", "--recipe-option", option), message)


def test_encoders_and_kinds_of_the_other_task(
    kdcache: Kdcache,
    precompute: Kdcache,
    tmp_path: Path,
    small_store: TargetStore,
    digits_checkpoint: Callable[[str], Path],
) -> None:
    for encoder in ("sqrt8", "auto", "residual"):
        told = f"heatmaps are not encoded by '{encoder}'; choose --encoder heatmap8"
        refused(precompute(*SMALL, "--encoder", encoder), told)
        hub = ("--hub", tmp_path / "hub")
        (tmp_path / "hub").mkdir(exist_ok=True)
        refused(precompute(*SMALL, "--encoder", encoder, *hub, "--push"), told)
        refused(kdcache("export", small_store.root, tmp_path / "E", "--encoder", encoder), told)
    refused(precompute(*SMALL, "--fidelity", "1e-4"), "--fidelity is of log-probabilities")
    refused(precompute(*SMALL, "--features"), "--features is of classifiers")
    refused(precompute(*SMALL, "--keep-logsumexp"), "--keep-logsumexp is of classifiers")
    r8 = ("--mentors", "r8", "--checkpoint", f"r8={digits_checkpoint('r8')}")
    digits = ("precompute", "--dataset", "digits", *r8, "--store", tmp_path / "none")
    refused(kdcache(*digits, "--encoder", "heatmap8"), "logits are not encoded by 'heatmap8'")
    refused(kdcache(*digits, "--flip-test"), "flip_test averages heatmaps")
    assert not (tmp_path / "none").exists()


def test_methods_and_options_of_the_other_task(
    kdcache: Kdcache,
    train: Kdcache,
    tmp_path: Path,
    small_store: TargetStore,
    digits_checkpoint: Callable[[str], Path],
) -> None:
    store = ("--store", small_store.root)
    refused(train(*store, "--method", "dkd"), "methods that take heatmaps: classroom, ce")
    refused(train(*store, "--method", "kd"), "exactly one mentor")
    refused(train(*store, "--per-class"), "--per-class tells of classes; people have none")
    refused(train(*store, "--decoder", "newton"), "unknown decoder 'newton'. Known: dark, quarter")
    refused(train(*store, "--confidence", "cosine"), "confidence", "'cosine'")
    refused(train(*store, "--batch-size", 32), "lower the batch size")
    told = "--flip-test, --decoder and sizes of views are of heatmaps"
    digits = ("--dataset", "digits", "--student", "r8", "--method", "ce", "--epochs", 1)
    for option in (("--flip-test",), ("--decoder", "dark")):
        refused(kdcache("train-student", *digits, "--out", tmp_path / "none", *option), told)
        evaluate = ("evaluate", digits_checkpoint("r8"), "--network", "r8", "--dataset", "digits")
        refused(kdcache(*evaluate, *option), told)
    assert not (tmp_path / "none").exists()


def test_stores_of_other_views(
    kdcache: Kdcache,
    train: Kdcache,
    sticks: Path,
    small_store: TargetStore,
    checkpoints: dict[str, str],
) -> None:
    store = ("--store", small_store.root)
    refused(train(*store, "--recipe-option", "height=128"), "recipe height", "64", "128")
    refused(train(*store, "--recipe", "pose-crop"), "pose-affine", "Leave those options out")
    refused(train(*store, "--views", 9), "views asked for are 0 to 8")
    again = (
        "precompute", "--dataset", "coco-keypoints", "--data-dir", sticks, *store, "--device",
        "cpu", "--mentors", "mbpose", "--checkpoint", f"mbpose={checkpoints['mbpose']}",
    )  # fmt: skip
    refused(kdcache(*again, "--recipe-option", "height=128"), "recipe height", "another --store")
    refused(kdcache(*again, "--flip-test"), "flip_test", "--flip-test), or another --store")
    refused(kdcache(*again, "--encoder", "float32"), "encoder heatmap8 float32")
    refused(kdcache(*again, "--samples", 10), "num_samples 24 10")


def test_data_that_is_not_there(kdcache: Kdcache, tmp_path: Path) -> None:
    for name, file in (("coco-keypoints", "person_keypoints_train2017.json"), ("mpii", "train")):
        train = ("train-mentor", "sb18", "--dataset", name, "--data-dir", tmp_path / "empty")
        refused(kdcache(*train), "looked for in these places", file, "--data-dir or $KDCACHE_DATA")


def test_checkpoints(kdcache: Kdcache, precompute: Kdcache, tmp_path: Path, sticks: Path) -> None:
    sixteen, broken, huge = (tmp_path / f"{n}.safetensors" for n in ("sixteen", "nan", "huge"))
    save_weights(sixteen, build_network("mbpose", 16, seed=0), {})
    told = "has 16 joints, the dataset has 17"
    refused(precompute(*SMALL, checkpoint=sixteen), told)
    people = ("--dataset", "coco-keypoints", "--data-dir", sticks)
    refused(kdcache("evaluate", sixteen, "--network", "mbpose", *people), told)
    weights = build_network("mbpose", 17, seed=0).state_dict()
    save_file({**weights, "final_layer.bias": torch.full((17,), torch.nan)}, broken)
    refused(precompute(*SMALL, checkpoint=broken), "NaN or infinite values", "final_layer.bias")
    save_file({**weights, "final_layer.bias": torch.full((17,), 3e38)}, huge)
    store = ("--store", tmp_path / "huge")
    for encoder, message in {
        "heatmap8": "heatmap8 holds magnitudes up to 1.27e+30, a target has 3e+38; use --encoder",
        "float16": "float16 holds",
    }.items():
        refused(
            precompute(*SMALL, *store, "--encoder", encoder, checkpoint=huge),
            "mentor 'mbpose', view 0", message, exit_code=1,
        )  # fmt: skip
    twice = {name: weight * 1e30 if "num_batches" not in name else weight
             for name, weight in weights.items()}  # fmt: skip
    save_file(twice, huge)
    refused(
        precompute(*SMALL, "--store", tmp_path / "inf", checkpoint=huge),
        "gave NaN or infinite heatmaps for 24 samples of view 0", "check the checkpoint",
        exit_code=1,
    )  # fmt: skip
    assert "mentor" in kdcache("inspect", tmp_path / "inf").output
