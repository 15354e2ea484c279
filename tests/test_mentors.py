"""Mentors: the published ones say what they said, whatever their neighbours; and where they live.

Bit-equality is tested at the default number of threads, as users run it.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcache.checkpoints import file_sha256, save_weights
from kdcache.datasets import ImageDataset, Preprocessing, open_dataset
from kdcache.errors import CheckpointError, RunFailed, UsageError
from kdcache.mentor_library import find_checkpoint, parse_checkpoints, require_all_used
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor, load_mentors
from kdcache.models import build_network
from kdcache.store.target_commits import require_finite

CPU = torch.device("cpu")
NAMES = ("r20", "r32", "r44", "r56")
EXACT_NAMES = ("r20", "r32")
PUBLISHED = {
    "r20": "resnet20",
    "r32": "resnet32",
    "r44": "resnet44",
    "r56": "resnet56",
}

# float32 (4 images, 4 mentors): log-probabilities of the classes 0, 49 and 99
PINNED = torch.tensor(
    [
        [
            [-14.7914, -5.9218, -11.63],
            [-14.7149, -5.2829, -12.4637],
            [-13.0496, -5.1748, -11.3384],
            [-14.9032, -7.2432, -13.3171],
        ],
        [
            [-11.7143, -11.0052, -12.5514],
            [-21.0971, -18.2915, -19.9837],
            [-18.2708, -20.4447, -18.9078],
            [-13.3928, -15.4147, -19.195],
        ],
        [
            [-19.1883, -14.9257, -15.7819],
            [-15.5936, -13.7842, -13.2739],
            [-14.5834, -8.593, -14.4808],
            [-15.3455, -12.991, -15.9214],
        ],
        [
            [-12.5175, -15.6804, -8.2748],
            [-13.1049, -14.1736, -10.2757],
            [-9.303, -13.5376, -15.4708],
            [-13.1341, -12.9408, -11.3906],
        ],
    ]
)


# The trained CIFAR-100 mentors


@cache
def _test_images(data: Path) -> ImageDataset:
    return open_dataset("cifar100", "test", data_dir=data)


@cache
def _published_pool(data: Path) -> MentorPool:
    folder = data / "mentors" / "cifar100"
    mentors = [
        load_mentor(name, _test_images(data), folder / f"{PUBLISHED[name]}.pth") for name in NAMES
    ]
    return MentorPool(mentors, device=CPU, run_shape=RunShape(batch=64))


@cache
def _first_targets(data: Path) -> torch.Tensor:
    """float32 (500, 4, 100): the four mentors on the first 500 test images.

    On one thread, for the time it takes: on a busy machine, threads that wait for each other
    cost far more. Nothing that is compared bit by bit comes from here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _published_pool(data).run(_test_images(data).images(np.arange(500)))
    finally:
        torch.set_num_threads(threads)


@cache
def _exact_targets(data: Path) -> torch.Tensor:
    """float32 (100, 2, 100): two of them on the first 100 as users run it, for comparing bits."""
    return _published_pool(data).run(_test_images(data).images(np.arange(100)), EXACT_NAMES)


@pytest.fixture
def cifar_test(real_data: Path) -> ImageDataset:
    return _test_images(real_data)


@pytest.fixture
def published(real_data: Path) -> MentorPool:
    return _published_pool(real_data)


@pytest.fixture
def first_targets(real_data: Path) -> torch.Tensor:
    return _first_targets(real_data)


@pytest.fixture
def exact_targets(real_data: Path) -> torch.Tensor:
    return _exact_targets(real_data)


def test_published_mentors_say_what_they_said(first_targets: torch.Tensor) -> None:
    assert first_targets.shape == (500, 4, 100)
    assert first_targets.dtype == torch.float32
    torch.testing.assert_close(first_targets[:4, :, [0, 49, 99]], PINNED, rtol=0, atol=1e-3)
    sums = first_targets.double().exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)


def test_published_mentors_are_as_right_as_they_were(
    first_targets: torch.Tensor, cifar_test: ImageDataset
) -> None:
    labels_B = torch.from_numpy(cifar_test.labels(np.arange(500)))
    right_M = (first_targets.argmax(-1) == labels_B[:, None]).sum(0)
    assert right_M.tolist() == [352, 350, 368, 356]


def test_a_published_mentor_is_identified(published: MentorPool, real_data: Path) -> None:
    identity = published.mentors[0].identity()
    assert identity == {
        "name": "r20",
        "architecture": "resnet20",
        "num_classes": 100,
        "checkpoint_sha256": "0d7818eb35f95925455f13e548a72cfd79faf9174e293faefba0dd56cef1e164",
        "preprocessing": {"mean": [0.5070, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2761]},
    }
    assert published.names == NAMES


def test_mentors_are_found_in_the_shared_data(
    cifar_test: ImageDataset, real_data: Path, published: MentorPool
) -> None:
    for name in ("r20", "resnet20"):
        assert load_mentor(name, cifar_test).identity() == published.mentors[0].identity()


@pytest.mark.parametrize("count", [1, 10, 63, 64])
def test_padding_does_not_change_a_rows_bits(
    published: MentorPool, cifar_test: ImageDataset, exact_targets: torch.Tensor, count: int
) -> None:
    images = cifar_test.images(np.arange(count))
    assert torch.equal(published.run(images, ["r20"])[:, 0], exact_targets[:count, 0])


def test_neighbours_do_not_change_a_rows_bits(
    published: MentorPool, cifar_test: ImageDataset, exact_targets: torch.Tensor
) -> None:
    order = np.random.default_rng(0).permutation(100)[:64]  # other passes, other positions
    got = published.run(cifar_test.images(order), EXACT_NAMES)
    assert torch.equal(got, exact_targets[order])


def test_a_row_alone_is_the_row_among_noise(
    published: MentorPool, cifar_test: ImageDataset, exact_targets: torch.Tensor
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    for position in (0, 31, 63):
        images[position] = cifar_test.images(np.array([7]))[0]
    rows = published.run(images, ["r32"])[:, 0]
    for position in (0, 31, 63):
        assert torch.equal(rows[position], exact_targets[7, 1])


def test_mentors_come_in_the_order_asked_with_the_same_bits(
    published: MentorPool, cifar_test: ImageDataset, exact_targets: torch.Tensor
) -> None:
    images = cifar_test.images(np.arange(20))
    got = published.run(images, ["r32", "r20"])
    assert torch.equal(got, exact_targets[:20, [1, 0]])


def test_images_are_not_changed(published: MentorPool, cifar_test: ImageDataset) -> None:
    images = cifar_test.images(np.arange(3))
    before = images.copy()
    published.run(images, ["r20"])
    assert np.array_equal(images, before)


# Untrained digits mentors: quick, and the same code


def pixels_of(dataset: ImageDataset, count: int) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = dataset.images(dataset.index_N[:count])
    return pixels


def test_a_run_is_the_networks_log_softmax_of_the_preprocessed_pixels(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    pixels = pixels_of(digits, 64)
    got = pool.run(pixels)
    assert got.shape == (64, 2, 10)
    inputs = torch.from_numpy(pixels).to(memory_format=torch.channels_last)
    for column, mentor in enumerate(digits_mentors):
        with torch.inference_mode():
            logits = mentor.network(mentor.preprocessing(inputs))
        assert torch.equal(got[:, column], torch.log_softmax(logits, -1))


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_keep_their_bits_in_every_run_shape(
    digits: ImageDataset, digits_mentors: list[Mentor], memory_format: str, precision: str
) -> None:
    shape = RunShape(batch=64, memory_format=memory_format, precision=precision)
    pool = MentorPool(digits_mentors, device=CPU, run_shape=shape)
    pixels = pixels_of(digits, 100)
    whole = pool.run(pixels)
    assert whole.dtype == torch.float32
    order = np.random.default_rng(1).permutation(100)
    assert torch.equal(pool.run(pixels[order]), whole[order])
    assert torch.equal(pool.run(pixels[70:73]), whole[70:73])


def test_every_pass_has_the_recorded_number_of_rows(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    seen: list[int] = []
    network = digits_mentors[0].network
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    assert pool.run(pixels_of(digits, 100)).shape == (100, 2, 10)
    assert pool.run(pixels_of(digits, 1)).shape == (1, 2, 10)
    assert seen == [64, 64, 64]


def test_no_images_give_no_targets(digits: ImageDataset, digits_mentors: list[Mentor]) -> None:
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    assert pool.run(pixels_of(digits, 0)).shape == (0, 2, 10)


def test_a_loaded_mentor_is_frozen(digits_mentors: list[Mentor]) -> None:
    for mentor in digits_mentors:
        assert not any(module.training for module in mentor.network.modules())
        assert not any(p.requires_grad for p in mentor.network.parameters())


def test_running_leaves_the_mentor_as_it_was(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = {k: v.clone() for k, v in digits_mentors[0].network.state_dict().items()}
    MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64)).run(pixels_of(digits, 70))
    after = digits_mentors[0].network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


# Identity and preprocessing


def test_a_sidecar_decides_the_preprocessing(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    path = digits_checkpoint("r8")
    plain = load_mentor("r8", digits, path)
    assert plain.preprocessing == digits.preprocessing
    other = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
    path.with_suffix(".json").write_text(json.dumps({"preprocessing": other.describe(), "top1": 9}))
    told = load_mentor("r8", digits, path)
    assert told.preprocessing == other
    assert told.identity() == {**plain.identity(), "preprocessing": other.describe()}
    pixels = pixels_of(digits, 64)
    pools = [
        MentorPool([mentor], device=CPU, run_shape=RunShape(batch=64)) for mentor in (plain, told)
    ]
    was, now = (pool.run(pixels)[:, 0] for pool in pools)
    assert not torch.equal(was, now)
    inputs = other(torch.from_numpy(pixels).to(memory_format=torch.channels_last))
    with torch.inference_mode():
        assert torch.equal(now, torch.log_softmax(told.network(inputs), -1))


def test_mentors_of_different_preprocessing_run_together(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    paths = [digits_checkpoint(name) for name in ("r8", "r14")]
    described = {"preprocessing": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    paths[1].with_suffix(".json").write_text(json.dumps(described))
    mentors = [load_mentor(n, digits, p) for n, p in zip(("r8", "r14"), paths, strict=True)]
    together = MentorPool(mentors, device=CPU, run_shape=RunShape(batch=64))
    pixels = pixels_of(digits, 30)
    alone = [
        MentorPool([mentor], device=CPU, run_shape=RunShape(batch=64)).run(pixels)
        for mentor in mentors
    ]
    assert torch.equal(together.run(pixels), torch.cat(alone, dim=1))


def test_a_sidecar_without_preprocessing_leaves_the_datasets(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    path = digits_checkpoint("r8")
    path.with_suffix(".json").write_text('{"top1": 70}')
    assert load_mentor("r8", digits, path).preprocessing == digits.preprocessing


@pytest.mark.parametrize("content", ["", "[]", "5", '{"preprocessing": {"mean": [1]}}', "\xff"])
def test_a_sidecar_that_cannot_be_read_is_an_error_that_names_it(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path], content: str
) -> None:
    path = digits_checkpoint("r8")
    path.with_suffix(".json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=re.escape(str(path.with_suffix(".json")))):
        load_mentor("r8", digits, path)


def test_a_mentor_is_known_by_its_short_name_and_its_files_hash(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    path = digits_checkpoint("r8")
    for name in ("r8", "resnet8"):
        mentor = load_mentor(name, digits, path)
        assert (mentor.name, mentor.architecture) == ("r8", "resnet8")
        assert mentor.checkpoint_sha256 == file_sha256(path)


def test_a_checkpoint_of_another_network_is_an_error(
    digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint of this"):
        load_mentor("r14", digits, digits_checkpoint("r8"))


def test_a_checkpoint_of_another_dataset_is_an_error(digits: ImageDataset, tmp_path: Path) -> None:
    save_weights(tmp_path / "r8.safetensors", build_network("r8", 100, seed=0), {})
    with pytest.raises(CheckpointError, match="has 100 classes, the dataset has 10"):
        load_mentor("r8", digits, tmp_path / "r8.safetensors")


# Where checkpoints are looked for


def test_a_missing_checkpoint_names_where_it_looked_and_three_ways(
    kdcache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path / "data"))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("r20", "cifar100")
    message = str(caught.value)
    assert "mentor 'r20' has no checkpoint for cifar100" in message
    assert str(kdcache_home / "mentors" / "cifar100" / "resnet20") in message
    assert str(tmp_path / "data" / "mentors" / "cifar100" / "resnet20") in message
    assert "{.safetensors,.pt,.pth,.th}" in message
    assert "kdcache train-mentor r20 --dataset cifar100" in message
    assert "put a file there" in message
    assert "--checkpoint r20=FILE" in message


def test_the_library_comes_before_the_shared_data_and_safetensors_before_the_rest(
    kdcache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path / "data"))
    shared, library = (
        folder / "mentors" / "digits" for folder in (tmp_path / "data", kdcache_home)
    )
    found = []
    for path in (
        shared / "resnet8.th",
        shared / "resnet8.pth",
        shared / "resnet8.pt",
        shared / "resnet8.safetensors",
        library / "resnet8.th",
        library / "resnet8.safetensors",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found.append(find_checkpoint("r8", "digits") == path)
    assert found == [True] * 6


def test_a_folder_of_that_name_is_not_a_checkpoint(kdcache_home: Path) -> None:
    (kdcache_home / "mentors" / "digits" / "resnet8.pt").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has no checkpoint for digits"):
        find_checkpoint("r8", "digits")


def test_names_with_a_colon_become_file_names(kdcache_home: Path) -> None:
    path = kdcache_home / "mentors" / "mine.build" / "torchvision.resnet18.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_checkpoint("torchvision:resnet18", "mine:build") == path


def test_a_checkpoint_in_the_library_is_loaded_with_its_sidecar(
    kdcache_home: Path, digits: ImageDataset, digits_checkpoint: Callable[[str], Path]
) -> None:
    library = kdcache_home / "mentors" / "digits"
    library.mkdir(parents=True)
    shutil.copy(digits_checkpoint("r8"), library / "resnet8.safetensors")
    described = {"mean": [0.1] * 3, "std": [0.2] * 3}
    (library / "resnet8.json").write_text(json.dumps({"preprocessing": described}))
    mentor = load_mentor("r8", digits)
    assert mentor.preprocessing.describe() == described
    assert mentor.checkpoint_sha256 == file_sha256(digits_checkpoint("r8"))


def test_an_unknown_mentor_is_an_error_with_the_near_names(digits: ImageDataset) -> None:
    with pytest.raises(UsageError, match=r"'r57'\. Did you mean .*r56"):
        load_mentor("r57", digits)


# Run shapes, checks, options


@pytest.mark.parametrize("batch", [-1, 0, 1, 63])
def test_a_batch_below_64_is_refused(batch: int) -> None:
    with pytest.raises(UsageError, match=f"batches of at least 64 .*, got {batch}"):
        RunShape(batch=batch)


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"memory_format": "nhwc"}])
def test_an_unknown_run_shape_is_refused_with_the_known_ones(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        RunShape(**wrong)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "fp32, bf16, fp16" in message
    assert "channels_last, contiguous" in message
    assert repr(next(iter(wrong.values()))) in message


def test_a_run_shape_describes_itself() -> None:
    shape = RunShape(batch=128, precision="bf16", memory_format="contiguous")
    assert RunShape(**shape.describe()) == shape
    assert RunShape().describe() == {
        "precision": "fp32",
        "batch": 256,
        "memory_format": "channels_last",
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_targets_that_are_not_finite_are_refused(bad: float) -> None:
    targets = np.zeros((5, 3), dtype=np.float32)
    require_finite(targets, "r20", 4)
    targets[1, 0] = targets[1, 2] = targets[4, 1] = bad
    with pytest.raises(RunFailed, match="'r20' gave NaN or infinite outputs for 2 samples of view"):
        require_finite(targets, "r20", 4)


def test_a_mentor_that_overflows_is_refused(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    network = digits_mentors[0].network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e30)
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    targets = pool.run(pixels_of(digits, 5)).numpy()
    require_finite(targets[:, 1], "r8", 0)
    with pytest.raises(RunFailed, match="for 5 samples of view 0"):
        require_finite(targets[:, 0], "r14", 0)


def test_checkpoint_options_are_read_by_short_name() -> None:
    assert parse_checkpoints([]) == {}
    assert parse_checkpoints(["r20=a.pth", "resnet56=/x/b=c.pt", "wrn-40-2=~/w.pt"]) == {
        "r20": Path("a.pth"),
        "r56": Path("/x/b=c.pt"),
        "wrn40": Path("~/w.pt").expanduser(),
    }


@pytest.mark.parametrize("given", ["", "r20", "r20=", "=file.pt", "file.pt"])
def test_a_checkpoint_option_of_another_form_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match=f"takes NAME=FILE, got {re.escape(repr(given))}"):
        parse_checkpoints([given])


@pytest.mark.parametrize("names", [("r20", "r20"), ("r20", "resnet20"), ("resnet20", "r20")])
def test_a_mentor_with_two_checkpoints_is_refused(
    names: tuple[str, str], digits: ImageDataset
) -> None:
    match = "'r20' is given two checkpoints, a.pth and b.pth; give one --checkpoint r20=FILE"
    files = ("a.pth", "b.pth")
    with pytest.raises(UsageError, match=match):
        parse_checkpoints([f"{name}={file}" for name, file in zip(names, files, strict=True)])
    if names[0] != names[1]:
        with pytest.raises(UsageError, match=match):
            load_mentors(["r20"], digits, dict(zip(names, files, strict=True)))


def test_a_checkpoint_of_a_mentor_that_is_not_run_is_refused() -> None:
    require_all_used([], ["r20"])
    require_all_used(["resnet20"], ["r8", "r20"])
    with pytest.raises(UsageError, match="names r44, but the mentors that run are r8, r20; add"):
        require_all_used(["r20", "r44"], ["r8", "resnet20"])


def test_a_checkpoint_option_of_an_unknown_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'r21'\. Did you mean .*r20"):
        parse_checkpoints(["r21=file.pt"])
