"""The promises on real CIFAR-100 with real trained mentors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import kdcache
from kdcache.cli import main
from pipelines import cached_equals_online

PUBLISHED = {"r20": 68.83, "r32": 70.16, "r44": 71.63, "r56": 72.63}


def test_from_the_store_is_online_on_real_images(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline's own story on 200 images; the test split too is cut to 200, to save time."""
    size = cached_equals_online.Size(
        dataset="cifar100", mentors=("r32", "r20"), student="r8", samples=200, views=2, epochs=2
    )
    monkeypatch.setattr(cached_equals_online, "FULL", size)
    whole = kdcache.open_dataset
    monkeypatch.setattr(
        "kdcache.train.shared.open_dataset",
        lambda name, split="train", **options: whole(
            name, split, samples=200 if split == "test" else None, **options
        ),
    )
    done = CliRunner().invoke(cached_equals_online.main, ["--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "losses of 2 epochs equal bit for bit: True" in done.output
    assert "final weights equal bit for bit: True" in done.output
    assert "every float16 row within the recorded bound: True" in done.output


def test_features_and_logsumexp_say_what_the_logits_say(real_data: Path, tmp_path: Path) -> None:
    """r20's classifier on its decoded features gives its stored log-probabilities; they and the
    logsumexps give its raw logits; each within what the encoders' bounds imply."""
    images = kdcache.open_dataset("cifar100", "test").select(256)
    mentor = kdcache.load_mentor("r20", images)
    store = kdcache.precompute_targets(
        images, [mentor], store=tmp_path / "S", views=2, features=True, keep_logsumexp=True
    )
    (features_NF,) = store.targets(1, store.index_N, kind="features")
    log_probs_NC = store.targets(1, store.index_N)[:, 0].astype(np.float64)
    logsumexp_N1 = store.targets(1, store.index_N, kind="logsumexp").astype(np.float64)
    assert features_NF.shape == (256, 64)
    weight_CF, bias_C = (mentor.network.get_parameter(f"fc.{p}") for p in ("weight", "bias"))
    from_features_NC = features_NF @ weight_CF.double().numpy().T + bias_C.double().numpy()
    # Half a float16 unit of each feature, times its weight; of decoded x at most 2^-10 |x|.
    slack_NC = 2.0**-10 * np.abs(features_NF) @ np.abs(weight_CF.double().numpy()).T + 2e-5
    pixels_NCHW = store.recipe(images.images(store.index_N), store.index_N, 1)
    with torch.inference_mode():
        raw_NC = mentor.network(images.preprocessing(torch.from_numpy(pixels_NCHW))).double()
    assert (np.abs(from_features_NC - raw_NC.numpy()) <= slack_NC).all()
    off_NC = np.abs(log_softmax(from_features_NC, axis=1) - log_probs_NC)
    rounding_NC = 2.0**-10 * np.abs(log_probs_NC) + 2e-5
    assert (off_NC <= slack_NC + slack_NC.max(1, keepdims=True) + rounding_NC).all()
    assert (np.abs(log_probs_NC + logsumexp_N1 - raw_NC.numpy()) <= rounding_NC).all()


def log_softmax(logits_NC: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.log_softmax(torch.from_numpy(logits_NC), axis).numpy()
    return found


@pytest.mark.slow
def test_the_mentors_reproduce_their_published_accuracy(real_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "S"
    command = (
        f"precompute --mentors {','.join(PUBLISHED)} --dataset cifar100 --split test "
        f"--recipe none --views 1 --encoder float32 --store {store}"
    )
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0, done.output
    found = json.loads(CliRunner().invoke(main, ["inspect", str(store), "--json"]).output)
    accuracy = {mentor["name"]: mentor["accuracy"] for mentor in found["mentors"]}
    assert accuracy == pytest.approx(PUBLISHED, abs=0.02)
    assert found["complete"]


@pytest.mark.slow
def test_from_the_store_is_online_at_full_size(real_data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cached_equals_online.main, ["--out", str(tmp_path), "--seed", "7"])
    assert done.exit_code == 0, done.output
    assert "losses of 4 epochs equal bit for bit: True" in done.output
    assert "final weights equal bit for bit: True" in done.output


@pytest.mark.slow
def test_a_store_that_moves_says_the_same(real_data: Path, tmp_path: Path) -> None:
    """A teammate copies the folder and trains from it: no mentor, no checkpoint, no home."""
    dataset = kdcache.open_dataset("cifar100", samples=300)
    kdcache.precompute_targets(dataset, ["r20", "r32"], store=tmp_path / "mine", views=2)
    shutil.copytree(tmp_path / "mine", tmp_path / "theirs")
    finals = []
    for name in ("mine", "theirs"):
        records = list(
            kdcache.train_student(
                student="r8", samples=300, epochs=2, store=str(tmp_path / name),
                out=str(tmp_path / f"run-{name}"), eval_every=2,
            )
        )  # fmt: skip
        finals.append(records[-1]["train_loss"])
    assert finals[0] == finals[1]
