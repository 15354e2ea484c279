"""Precompute: only what is missing, exactly what the mentors say, and nothing lost on the way."""

import dataclasses
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import kdcache
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import RunFailed, StoreError, StoreMismatch, UsageError
from kdcache.inspection import inspect_store
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.models import build_network
from kdcache.precompute import PrecomputeJob
from kdcache.running import MOST_BLOCKS_IN_FLIGHT
from kdcache.store import commit_targets

Stop = Callable[[], bool]


pytestmark = pytest.mark.usefixtures("small_blocks")


def snapshot(root: Path) -> dict[str, bytes]:
    """Chunks and commit records: what makes two stores the same store."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "mentors").rglob("*"))
        if path.is_file() and ("/c/" in str(path) or "/commits/" in str(path))
    }


def stop_after(polls: int) -> Stop:
    left = iter(range(polls))
    return lambda: next(left, None) is None


def test_targets_are_the_networks_log_softmax(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder="float32"
    )
    recipe = kdcache.views.make_recipe("crop-flip", **digits.view_parameters)
    for view in range(2):
        pixels = recipe(digits.images(digits.index_N), digits.index_N, view)
        images = digits.preprocessing(torch.from_numpy(pixels))
        for name, mentor in zip(("r14", "r8"), digits_mentors, strict=True):
            with torch.inference_mode():
                expected = torch.log_softmax(mentor.network(images).double(), dim=-1)
            rows = store.targets(view, digits.index_N, [name])[:, 0]
            np.testing.assert_allclose(rows, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("encoder", ["float16", "float32"])
def test_any_zarr_reader_sees_the_same_rows(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder=encoder
    )
    array = zarr.open_array(tmp_path / "s" / "mentors" / "r8" / "logits", mode="r")
    assert array.shape == (2, 100, 10)
    for view in range(2):
        rows = np.asarray(array[view]).astype(np.float32)
        np.testing.assert_array_equal(rows, store.targets(view, store.index_N, ["r8"])[:, 0])


def test_float16_rows_keep_the_recorded_bound(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    stores = {
        encoder: kdcache.precompute_targets(
            digits, digits_mentors, store=tmp_path / encoder, views=1, encoder=encoder
        )
        for encoder in ("float32", "float16")
    }
    exact, decoded = (stores[e].targets(0, digits.index_N) for e in ("float32", "float16"))
    stated = inspect_store(stores["float16"])["mentors"][0]["encoder"]
    bound = np.maximum(stated["relative_error"] * np.abs(exact), stated["absolute_error"])
    assert (np.abs(decoded - exact) <= bound).all()
    measured = max(
        m["encoder"]["measured_error"]["max_log_prob"]
        for m in inspect_store(stores["float16"])["mentors"]
    )
    assert measured == np.abs(decoded - exact).max()
    assert measured > 0


def test_more_views_and_more_mentors_reuse_what_is_there(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    r14, r8 = digits_mentors
    root = tmp_path / "s"
    kdcache.precompute_targets(digits, [r14], store=root, views=2)
    before = snapshot(root)

    job = PrecomputeJob(digits, [r8, r14], store=root, views=3)
    assert job.plan.reused == {"r8": 0, "r14": 8}
    assert job.plan.new == {"r8": 12, "r14": 4}
    result = job.run()
    assert result.num_pixels == job.plan.num_pixels == 300
    after = snapshot(root)
    assert {key: after[key] for key in before} == before

    whole = tmp_path / "at once"
    kdcache.precompute_targets(digits, [r14, r8], store=whole, views=3)
    assert snapshot(whole) == after
    again = PrecomputeJob(digits, [r8, r14], store=root)
    assert again.plan.units == ()
    assert again.plan.views == 3
    assert again.run().num_pixels == 0


@pytest.mark.parametrize("polls", [0, 1, 2, 3, 5, 7])
def test_stopped_anywhere_it_goes_on_and_ends_the_same(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], polls: int
) -> None:
    undisturbed = tmp_path / "undisturbed"
    kdcache.precompute_targets(digits, digits_mentors, store=undisturbed, views=2)
    job = PrecomputeJob(digits, digits_mentors, store=tmp_path / "s", views=2)
    result = job.run(should_stop=stop_after(polls))
    assert result.stopped
    assert result.num_pixels == 25 * polls
    second = PrecomputeJob(digits, digits_mentors, store=tmp_path / "s")
    assert sum(second.plan.reused.values()) == 2 * polls
    assert not second.run().stopped
    assert snapshot(tmp_path / "s") == snapshot(undisturbed)


def test_an_error_in_the_middle_keeps_what_was_finished(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    class PowerCutError(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done > 75:
            raise PowerCutError

    job = PrecomputeJob(digits, digits_mentors, store=tmp_path / "s", views=2)
    with pytest.raises(PowerCutError):
        job.run(progress=progress)
    store = kdcache.open_store(tmp_path / "s")
    assert sorted(store.mentor("r8").commits) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("loss", ["chunk gone", "chunk cut", "bit flipped", "record gone"])
def test_what_is_lost_is_computed_again(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], loss: str
) -> None:
    root = tmp_path / "s"
    store = kdcache.precompute_targets(digits, digits_mentors, store=root, views=2)
    before = snapshot(root)
    stored = store.mentor("r14")
    chunk = stored.array.chunk(1, 2)
    if loss == "chunk gone":
        chunk.unlink()
    elif loss == "chunk cut":
        chunk.write_bytes(chunk.read_bytes()[:50])
    elif loss == "bit flipped":
        content = bytearray(chunk.read_bytes())
        content[33] ^= 8
        chunk.write_bytes(content)
    else:
        (stored.array.commits / stored.commits[1, 2].file_name).unlink()
    job = PrecomputeJob(digits, digits_mentors, store=root)
    assert [(u.view, u.block, u.mentors) for u in job.plan.units] == [(1, 2, ("r14",))]
    job.run()
    assert snapshot(root) == before


def test_nan_mentors_are_refused_and_nothing_of_them_is_stored(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    broken = digits_mentors[0]
    with torch.no_grad():
        broken.network.get_parameter("fc.bias")[0] = float("nan")
    with pytest.raises(RunFailed, match="'r14' gave NaN or infinite outputs for 25 samples"):
        kdcache.precompute_targets(digits, [broken], store=tmp_path / "s", views=1)
    assert kdcache.open_store(tmp_path / "s").mentors == []


def test_mentors_near_chance_are_warned_of(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "s", views=1)
    found = inspect_store(store)
    weak = [m["name"] for m in found["mentors"] if m["accuracy"] < 20]
    assert weak  # these were never trained
    assert [w.split()[1] for w in found["warnings"]] == weak


def test_a_store_is_made_for_one_thing_only(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str, int], Path],
) -> None:
    root = tmp_path / "s"
    kdcache.precompute_targets(digits, digits_mentors, store=root, views=1)
    other = [load_mentor("r8", digits, digits_checkpoint("r8", 1))]
    test = open_dataset("digits", "test", samples=100)

    def refused(match: str, *, dataset: Any = digits, mentors: Any = None, **options: Any) -> None:
        with pytest.raises(StoreMismatch, match=match):
            PrecomputeJob(dataset, mentors or digits_mentors, store=root, **options)

    refused(r"view_seed\s+0\s+7", view_seed=7)
    refused(r"recipe name\s+crop-flip\s+none", recipe="none")
    refused(r"recipe padding\s+1\s+2", recipe=kdcache.views.CropFlip(size=8, padding=2, flip=False))
    refused(r"split\s+train\s+test", dataset=test)
    refused(r"num_samples\s+100\s+50", dataset=digits.subset(digits.index_N[:50]))
    refused(r"checkpoint_sha256\s+\w{64}\s+\w{64}", mentors=other)
    refused(r"encoder\s+float16\s+float32", encoder="float32")
    refused(r"run_shape.*'batch': 256.*'batch': 128", batch_size=128)
    refused(r"run_shape.*'fp32'.*'bf16'", precision="bf16")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_stay_near(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], precision: str
) -> None:
    exact, low = (
        kdcache.precompute_targets(
            digits, digits_mentors, store=tmp_path / p, views=1, encoder="float32", precision=p
        ).targets(0, digits.index_N)
        for p in ("fp32", precision)
    )
    assert not np.array_equal(exact, low)
    np.testing.assert_allclose(exact, low, atol=0.1)


def test_wrong_use_says_what_to_do(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    def refused(match: str, mentors: list[Mentor] | None = None, **options: Any) -> None:
        with pytest.raises((UsageError, StoreError), match=match):
            kdcache.precompute_targets(
                digits, digits_mentors if mentors is None else mentors, **options
            )

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    refused("at least one mentor", mentors=[])
    refused("named twice", mentors=[digits_mentors[0]] * 2)
    refused("takes --views 1 to 1, got 2", recipe="none", views=2)
    refused("takes --views 1 and up, got 0", views=0)
    refused("unknown recipe 'crop'. Did you mean .*crop-flip", recipe="crop")
    refused("unknown encoder 'float8'. Did you mean float", encoder="float8")
    refused("batches of at least 64", batch_size=32)
    refused("not a kdcache store; name a new or empty folder", store=tmp_path / "full")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_without_a_path_the_store_lies_in_the_home(
    kdcache_home: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(digits, digits_mentors, views=1)
    assert store.root.parent == kdcache_home / "stores"
    assert store.root.name == f"digits-train-crop-flip-s0-{store.fingerprint[:12]}"


def test_of_two_writers_with_one_mentor_made_differently_the_second_is_refused(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str, int], Path],
) -> None:
    other = load_mentor("r8", digits, digits_checkpoint("r8", 1))
    first, second, third = (
        PrecomputeJob(digits, [mentor], store=tmp_path / "s", views=1, encoder=encoder)
        for mentor, encoder in (
            (digits_mentors[1], "float32"),
            (digits_mentors[1], "float16"),
            (other, "float32"),
        )
    )
    before = first.run().store.targets(0, digits.index_N)
    with pytest.raises(StoreMismatch, match=r"encoder\s+float32\s+float16"):
        second.run()
    with pytest.raises(StoreMismatch, match="checkpoint_sha256"):
        third.run()
    store = kdcache.open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.targets(0, digits.index_N), before)


def test_networks_that_do_not_suit_are_refused_before_anything_is_stored(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    wide = dataclasses.replace(digits_mentors[0], network=build_network("r8", 20, seed=0).eval())
    large = dataclasses.replace(
        digits_mentors[0], network=build_network("torchvision:alexnet", 10, seed=0).eval()
    )
    for mentor, match in ((wide, r"\(256, 10\).*it gave \(256, 20\)"), (large, "cannot run on")):
        with pytest.raises(UsageError, match=match):
            kdcache.precompute_targets(digits, [mentor], store=tmp_path / "s", views=1)
    assert kdcache.open_store(tmp_path / "s").mentors == []


def test_values_that_float16_cannot_hold_are_refused(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    with torch.no_grad():
        digits_mentors[0].network.get_parameter("fc.bias")[0] = 1e6
    with pytest.raises(RunFailed, match="'r14', view 0: float16 holds values up to 65504"):
        kdcache.precompute_targets(digits, digits_mentors[:1], store=tmp_path / "s", views=1)
    # As the error advises, into the same store: what committed nothing decided nothing.
    kdcache.precompute_targets(
        digits, digits_mentors[:1], store=tmp_path / "s", views=1, encoder="float32"
    )


def test_mentors_stay_in_float32_inside_anybodys_autocast(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    pool = MentorPool(digits_mentors, device=torch.device("cpu"), run_shape=RunShape())
    pixels = digits.images(digits.index_N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pool.run(pixels)
    assert torch.equal(inside, pool.run(pixels))


def test_a_store_of_another_machine_needs_no_write_to_be_found_complete(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "s", views=1)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert PrecomputeJob(digits, digits_mentors, store=store.root).run().num_pixels == 0
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_a_url_is_not_taken_for_a_folder(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    with pytest.raises(StoreError, match="read, not written"):
        PrecomputeJob(digits, digits_mentors, store="s3://bucket/x")


def test_a_new_mentor_runs_in_the_shape_of_the_stores_others(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    r14, r8 = digits_mentors
    root = tmp_path / "s"
    kdcache.precompute_targets(
        digits, [r8], store=root, views=1, precision="bf16", batch_size=128, encoder="float32"
    )
    store = kdcache.precompute_targets(digits, [r14], store=root)
    assert store.mentor("r14").manifest.run_shape == store.mentor("r8").manifest.run_shape
    assert store.mentor("r14").encoder.name == "float32"


def test_blocks_in_flight_are_bounded_however_slow_writing_is(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Encoding, compressing and writing overlap the forward passes, but do not pile up."""
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    seen: list[int] = []
    compute = MentorPool.targets

    def tracked(pool: MentorPool, *arguments: Any) -> list[torch.Tensor]:
        targets = compute(pool, *arguments)
        alive.update(targets)
        seen.append(len(alive))
        return targets

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return commit_targets(*arguments)

    monkeypatch.setattr(MentorPool, "targets", tracked)
    monkeypatch.setattr("kdcache.running.commit_targets", slow)
    kdcache.precompute_targets(digits, digits_mentors[1:], store=tmp_path / "s", views=3)
    assert len(seen) == 12  # a batch is a block here
    assert max(seen) == MOST_BLOCKS_IN_FLIGHT + 1
