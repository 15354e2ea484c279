"""Precompute with features and logsumexps: from one forward pass, added, and kept in step."""

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP
from kdcache.errors import RunFailed, StoreMismatch, UsageError
from kdcache.mentors import Mentor, MentorPool, RunShape
from kdcache.precompute import PrecomputeJob
from kdcache.store import open_store, verify_store
from kdcache.verification import verify
from tests.test_precompute import snapshot, stop_after

CPU = torch.device("cpu")
BOTH: dict[str, Any] = {"features": True, "keep_logsumexp": True}


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_features_are_what_the_classifier_is_given(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=root, views=2, encoder="float32", features=True
    )
    index = digits.index_N
    pixels = store.recipe(digits.images(index), index, 1)
    images = digits.preprocessing(torch.from_numpy(pixels))
    for name, mentor in zip(("r14", "r8"), digits_mentors, strict=True):
        (features,) = store.targets(1, index, [name], kind="features")
        classifier = mentor.network.get_submodule("fc")
        assert features.shape == (100, classifier.in_features)
        with torch.inference_mode():
            again = classifier(torch.from_numpy(features)).double()
            expected = mentor.network(images).double()
        np.testing.assert_allclose(again, expected, atol=1e-5)
        log_probs = torch.log_softmax(again, -1)
        np.testing.assert_allclose(store.targets(1, index, [name])[:, 0], log_probs, atol=1e-5)


def test_each_mentor_runs_once_whatever_is_wanted_of_it(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    pixels = digits.images(digits.index_N)
    alone = pool.run(pixels)
    passes = []
    for mentor in digits_mentors:
        mentor.network.register_forward_hook(lambda network, *_: passes.append(network))
    wanted = [("r8", FEATURES), ("r14", LOGSUMEXP), ("r8", LOGITS), ("r14", LOGITS)]
    features, lse_B, r8, r14 = pool.targets(pixels, wanted)
    assert len(passes) == 2 * 2  # two passes of 64 rows
    assert torch.equal(torch.stack([r14, r8], dim=1), alone)
    assert (features.shape, features.dtype) == ((100, 64), torch.float32)
    assert torch.equal(pool.targets(pixels[3:5], wanted)[0], features[3:5])
    assert torch.equal(pool.targets(pixels[:0], wanted)[1], lse_B[:0])
    assert not digits_mentors[0].network.fc._forward_hooks  # type: ignore[union-attr]


@pytest.mark.parametrize("encoder", ["float16", "sqrt8-zstd"])
def test_they_are_added_to_a_store_that_has_the_logits(
    root: Path, tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=2, encoder=encoder)
    before = snapshot(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("logits/c/*/*/0")}
    job = PrecomputeJob(digits, digits_mentors[:1], store=root, **BOTH)
    assert job.plan.reused == {"r14": 8, "r14 features": 0, "r14 logsumexp": 0}
    assert job.plan.new == {"r14": 0, "r14 features": 8, "r14 logsumexp": 8}
    assert job.plan.bytes_to_write == 8 * 25 * (64 * 2 + 4)
    assert job.run().num_pixels == 200
    after = snapshot(root)
    assert {key: after[key] for key in before} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert open_store(root).kinds("r8") == ("logits",)
    kdcache.precompute_targets(digits, digits_mentors, store=root, **BOTH)
    whole = tmp_path / "at once"
    kdcache.precompute_targets(
        digits, digits_mentors, store=whole, views=2, encoder=encoder, **BOTH
    )
    assert snapshot(whole) == snapshot(root)
    assert verify_store(root).ok


def test_a_mentors_kinds_are_kept_in_step(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=1)
    kdcache.precompute_targets(digits, digits_mentors[:1], store=root, features=True)
    job = PrecomputeJob(digits, digits_mentors, store=root, views=3)
    assert job.plan.new == {"r14": 8, "r14 features": 8, "r8": 8}
    store = job.run().store
    assert store.usable_views(["r14"], kinds=["logits", "features"]) == [0, 1, 2]
    assert store.kinds("r8") == ("logits",)


@pytest.mark.parametrize("lost", ["chunk", "record", "array", "group", "index"])
@pytest.mark.parametrize("kind", ["features", "logsumexp"])
def test_what_is_damaged_is_made_again_as_it_was(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor], kind: str, lost: str
) -> None:
    mentors = digits_mentors[:1]
    store = kdcache.precompute_targets(digits, mentors, store=root, views=2, **BOTH)
    before = snapshot(root)
    stored = store.mentor("r14", kind)
    path = {
        "chunk": stored.array.chunk(1, 2),
        "record": stored.array.commits / stored.commits[1, 2].file_name,
        "array": stored.array.metadata,
        "group": stored.array.group / "zarr.json",
        "index": stored.array.commit_index,
    }[lost]
    flip(path)
    found = verify(root, dataset="digits")
    assert not found.ok
    assert {damage.mentor for damage in found.damaged} == {"r14"}
    assert found.healing is not None
    command = shlex.split(found.healing)
    assert {"--features", "--keep-logsumexp"} <= set(command)
    job = PrecomputeJob(digits, mentors, store=root)  # without its being said, too
    computed = {f"r14 {kind}": 1} if lost in ("chunk", "record") else {}
    assert {key: count for key, count in job.plan.new.items() if count} == computed
    job.run()
    assert snapshot(root) == before
    assert verify(root, dataset="digits").ok


@pytest.mark.parametrize("polls", [0, 1, 3, 6])
def test_stopped_anywhere_it_goes_on_and_ends_the_same(
    root: Path, tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], polls: int
) -> None:
    whole = tmp_path / "undisturbed"
    kdcache.precompute_targets(digits, digits_mentors, store=whole, views=2, **BOTH)
    job = PrecomputeJob(digits, digits_mentors, store=root, views=2, **BOTH)
    assert job.run(should_stop=stop_after(polls)).stopped
    assert verify_store(root).ok
    again = PrecomputeJob(digits, digits_mentors, store=root, **BOTH)
    assert sum(again.plan.reused.values()) == 2 * 3 * polls
    assert not again.run().stopped
    assert snapshot(root) == snapshot(whole)


def spoilt(mentor: Mentor, value: float) -> Mentor:
    """A mentor of finite logits, one of whose features is `value`."""
    with torch.no_grad():
        mentor.network.get_parameter("fc.weight")[:, 5] = 0.0

    class Spoilt(torch.nn.Module):
        def __init__(self, fc: torch.nn.Module) -> None:
            super().__init__()
            self.weight, self.bias = fc.weight, fc.bias
            self.fc = fc

        def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(features_BF.index_fill(1, torch.tensor([5]), value))
            return logits.nan_to_num()

    mentor.network.fc = Spoilt(mentor.network.get_submodule("fc"))
    return mentor


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused_and_the_logits_stay(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor], value: float
) -> None:
    mentor = spoilt(digits_mentors[1], value)
    with pytest.raises(RunFailed, match="'r8' gave NaN or infinite features for 25 samples of"):
        kdcache.precompute_targets(digits, [mentor], store=root, views=1, features=True)
    store = open_store(root)
    assert store.kinds("r8") == ("logits",)
    assert sorted(store.mentor("r8").commits)[:1] == [(0, 0)]
    kdcache.precompute_targets(digits, [mentor], store=root)
    assert verify_store(root).ok


def test_features_that_float16_cannot_hold_are_refused_with_advice(
    root: Path, tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    mentor = spoilt(digits_mentors[1], 1e6)
    expected = r"'r8', view 0, features: float16 holds .* 1e\+06; use --encoder float32.*--features"
    with pytest.raises(RunFailed, match=expected):
        kdcache.precompute_targets(digits, [mentor], store=root, views=1, features=True)
    exact = tmp_path / "another"
    store = kdcache.precompute_targets(
        digits, [mentor], store=exact, views=1, features=True, encoder="float32"
    )
    assert store.targets(0, store.index_N, kind="features")[0].max() == 1e6


def test_a_network_without_a_classifier_is_told_before_anything_is_stored(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    class Sums(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :10].cumsum(1)

    odd = dataclasses.replace(digits_mentors[1], network=Sums())
    with pytest.raises(UsageError, match=r"mentor 'r8' \(resnet8\): .* has no classifier"):
        PrecomputeJob(digits, [odd], store=root, features=True)
    assert not root.exists()
    assert kdcache.precompute_targets(digits, [odd], store=root, views=1).kinds("r8") == ("logits",)


def test_a_kind_is_made_as_its_mentor_was(
    root: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=1)
    with pytest.raises(StoreMismatch, match=r"encoder\s+float16\s+float32"):
        PrecomputeJob(digits, digits_mentors, store=root, features=True, encoder="float32")
    with pytest.raises(StoreMismatch, match=r"run_shape.*256.*128"):
        PrecomputeJob(digits, digits_mentors, store=root, features=True, batch_size=128)


def test_rows_of_every_kind_are_computed_again(
    root: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    kdcache.precompute_targets(digits, digits_mentors[1:], store=root, views=2, **BOTH)
    given = {"r8": digits_checkpoint("r8")}
    found = verify(root, recompute=5, checkpoints=given, device="cpu")
    assert (found.ok, found.recomputed, found.not_checked) == (True, 15, ())


@pytest.mark.parametrize(
    ("kind", "changed", "at"),
    [("features", "layer3.0.bn2.weight", ", feature "), ("logsumexp", "fc.weight", ": the store")],
)
def test_targets_of_another_network_are_told_by_the_mentor_itself(
    root: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
    kind: str,
    changed: str,
    at: str,
) -> None:
    """Checksums hold and the logits are right."""
    r8 = digits_mentors[1]
    kdcache.precompute_targets(digits, [r8], store=root, views=1)
    with torch.no_grad():
        r8.network.get_parameter(changed).mul_(3)
    options: dict[str, Any] = {
        "features": kind == "features",
        "keep_logsumexp": kind == "logsumexp",
    }
    kdcache.precompute_targets(digits, [r8], store=root, **options)
    assert verify_store(root).ok
    found = verify(root, recompute=3, checkpoints={"r8": digits_checkpoint("r8")}, device="cpu")
    assert {damage.kind for damage in found.damaged} == {kind}
    assert all(at in damage.reason for damage in found.damaged)
    assert all("the mentor says" in damage.reason for damage in found.damaged)


def test_the_command_line_adds_and_tells_them(
    root: Path, digits_checkpoint: Callable[[str], Path]
) -> None:
    def kdcache_(*words: str) -> str:
        done = CliRunner().invoke(main, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    common = ["precompute", "--mentors", "r8", "--dataset", "digits", "--samples", "100"]
    common += ["--store", str(root), "--checkpoint", f"r8={digits_checkpoint('r8')}"]
    kdcache_(*common, "--views", "1", "--device", "cpu")
    output = kdcache_(*common, "--features", "--keep-logsumexp", "--device", "cpu")
    assert "r8: 4 chunks reused, 0 to compute" in output
    assert "r8 features: 0 chunks reused, 4 to compute" in output
    assert "ran r8 features, r8 logsumexp over 100 views" in output
    listed = kdcache_("inspect", str(root))
    assert "  features              1/1      12.8 kB  float16   64 a row\n" in listed
    assert "  logsumexp             1/1" in listed
    assert "12 committed chunks" in kdcache_("verify", str(root))
