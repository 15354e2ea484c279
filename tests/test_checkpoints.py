"""Checkpoints: right weights, or one clear error; and no code from a file ever runs."""

import argparse
import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdcache.checkpoints import (
    file_sha256,
    load_weights,
    read_metadata,
    read_state_dict,
    save_weights,
)
from kdcache.errors import CheckpointError
from kdcache.models import build_network


def small() -> nn.Module:
    """A network with every kind of entry: float weights, buffers, an integer counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def write_torch(path: Path, content: object, *, old_format: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    return path


# Reading what is right


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
@pytest.mark.parametrize("old_format", [False, True])
def test_torch_files(tmp_path: Path, suffix: str, old_format: bool) -> None:
    state = small().state_dict()
    path = write_torch(tmp_path / f"net{suffix}", state, old_format=old_format)
    assert same(read_state_dict(path), dict(state))
    assert same(read_state_dict(str(path)), dict(state))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrappers_and_module_prefixes_come_off(tmp_path: Path, wrapper: str) -> None:
    state = small().state_dict()
    prefixed = {f"module.{key}": value for key, value in state.items()}
    path = write_torch(tmp_path / "net.pth", {"epoch": 3, wrapper: prefixed, "best": 0.5})
    assert same(read_state_dict(path), dict(state))


def test_a_network_whose_own_keys_begin_with_module(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = small()

    save_weights(tmp_path / "net.safetensors", Wrapped(), {})
    network = Wrapped()
    nn.init.zeros_(network.module[3].weight)  # type: ignore[index]
    load_weights(network, tmp_path / "net.safetensors")
    assert same(dict(network.module.state_dict()), dict(small().state_dict()))


# Reading what is wrong


class Runs:
    """Pickles as a call: whoever unpickles it naively runs the call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("form", ["zip", "old", "raw0", "raw2", "raw4"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_malicious_pickle_never_runs(tmp_path: Path, form: str, inside: bool) -> None:
    trace = tmp_path / "trace"
    evil: object = Runs(os.mkdir, str(trace))
    content = {"fc.weight": torch.ones(2), "fc.bias": evil} if inside and form[0] != "r" else evil
    path = tmp_path / "net.pth"
    if form.startswith("raw"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[3])))
    else:
        write_torch(path, content, old_format=form == "old")
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    assert not trace.exists()
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to switch the safety off
    if form != "raw4":  # protocol 4 is refused before its call is even seen
        assert "asks to run posix.mkdir" in str(caught.value)
    pickle.loads(pickle.dumps(evil))  # the bait works
    assert trace.exists()


def truncated(path: Path) -> None:
    data = write_torch(path, small().state_dict()).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def torch_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files remain
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "is empty \\(0 bytes\\)"),
    "truncated": (truncated, "is not a whole PyTorch checkpoint: it is truncated"),
    "noise": (lambda p: p.write_bytes(bytes(range(256)) * 8), "is not a whole PyTorch checkpoint"),
    "web": (lambda p: p.write_bytes(b"\n<!doctype html>"), "is a web page"),
    "lfs": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "folder": (lambda p: p.mkdir(), "is a folder, expected a checkpoint file"),
    "missing": (lambda p: None, "there is no checkpoint"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "network": (lambda p: write_torch(p, small()), r"asks to run torch\.nn\.modules\.container"),
    "options": (lambda p: write_torch(p, argparse.Namespace()), r"of the type argparse\.Namespace"),
    "program": (torch_script, "asks to run a TorchScript program"),
    "packed": (packed, "unpacks to more bytes than it has"),
    "tensor": (lambda p: write_torch(p, torch.ones(2)), "is one tensor, expected a state dict"),
    "list": (
        lambda p: write_torch(p, [torch.ones(2)]),
        "is of the type list, expected a state dict",
    ),
    "nothing": (lambda p: write_torch(p, {}), "without any tensor"),
    "wrapped nothing": (lambda p: write_torch(p, {"model": {}}), "without any tensor"),
    "optimizer": (
        lambda p: write_torch(p, {"lr": 0.1, "state": {}}),
        r"2 keys not plain tensors: lr \(float\); state \(dict\)",
    ),
    "number keys": (lambda p: write_torch(p, {3: torch.ones(2)}), "1 key not plain tensors: 3"),
    "sparse": (lambda p: write_torch(p, {"a": torch.eye(3).to_sparse()}), "not plain tensors: a"),
    "huge": (
        lambda p: write_torch(p, {"a": torch.ones(1).expand(2**40)}),
        "not plain tensors: a",
    ),
    "nan": (
        lambda p: write_torch(p, {"a": torch.ones(2), "b": torch.tensor([1, float("nan")])}),
        "NaN or infinite values:\n  1 key not finite: b\n",
    ),
    "infinite": (lambda p: write_torch(p, {"a": torch.tensor(float("-inf"))}), "not finite: a"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(tmp_path: Path, kind: str) -> None:
    make, message = BROKEN[kind]
    path = tmp_path / "net.pth"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        load_weights(small(), path)


def test_a_folder_lists_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "last.pth").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"Name a file in it: last\.pth\."):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["net.bin", "net"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    write_torch(tmp_path / name, small().state_dict())
    with pytest.raises(CheckpointError, match=r"\.safetensors, \.pt, \.pth, \.th"):
        read_state_dict(tmp_path / name)


damage = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4)


@given(keep=st.just(1.0) | st.floats(0, 1), flips=damage)
@settings(deadline=None, max_examples=60)
def test_damaged_files_give_weights_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, keep: float, flips: list[tuple[float, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    state = {"a": torch.arange(3.0), "b": torch.tensor(4)}
    save_weights(folder / "whole.safetensors", state, {})
    write_torch(folder / "whole.pth", state)
    for suffix in (".safetensors", ".pth"):
        data = bytearray((folder / f"whole{suffix}").read_bytes())
        for place, change in flips:
            data[int(place * (len(data) - 1))] ^= change
        (folder / f"damaged{suffix}").write_bytes(data[: int(keep * len(data))])
        with suppress(CheckpointError):  # and nothing else
            found = read_state_dict(folder / f"damaged{suffix}")
            assert all(isinstance(value, Tensor) for value in found.values())


# Loading


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    """small()'s weights, some replaced, added or (None) left out; `_` stands for a dot."""
    entries = {**small().state_dict(), **{k.replace("_", "."): v for k, v in changes.items()}}
    return {key: value for key, value in entries.items() if value is not None}


def test_weights_load_into_another_initialisation(tmp_path: Path) -> None:
    trained = build_network("r8", 10, seed=1)
    network = build_network("r8", 10, seed=2)
    path = write_torch(tmp_path / "net.pth", trained.state_dict())
    load_weights(network, path)
    assert same(dict(network.state_dict()), dict(trained.state_dict()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(**{"3_bias": None}), "1 key the network expects and the file lacks: 3.bias\n"),
        (changed(extra=torch.ones(1)), "1 key the file has and the network does not know: extra\n"),
        (
            changed(**{"0_weight": torch.ones(4, 3, 5, 5)}),
            r"1 key of another shape: 0.weight \(4, 3, 5, 5\) in the file, \(4, 3, 3, 3\) here\n",
        ),
        (
            changed(**{"0_weight": torch.ones(4, 3, 3, 3, dtype=torch.int8)}),
            r"1 key not floating point: 0.weight torch.int8 in the file\n",
        ),
        (
            changed(**{"3_weight": torch.full((10, 4), 1e300, dtype=torch.float64)}),
            "NaN or infinite values:\n  1 key not finite: 3.weight",
        ),
        (
            changed(**{"3_weight": torch.ones(7, 4), "3_bias": torch.ones(7)}),
            r"has 7 classes, the dataset has 10\. Give .* kdcache train-mentor NAME",
        ),
        (
            # a class count is only suspected where everything else fits
            changed(**{"3_weight": torch.ones(7, 4), "3_bias": torch.ones(7), "0_bias": None}),
            r"lacks: 0.bias\n  2 keys of another shape: 3.weight \(7, 4\) in the file",
        ),
    ],
)
def test_mismatches(tmp_path: Path, content: dict[str, Tensor], message: str) -> None:
    path = write_torch(tmp_path / "net.pth", content)
    network = small()
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(network, path)
    assert str(path) in str(caught.value)
    assert same(dict(network.state_dict()), dict(small().state_dict()))  # untouched


def test_a_mismatch_lists_five_of_each_side_and_counts_the_rest(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "net.pth", build_network("wrn-10-1", 10).state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_weights(build_network("r8", 10), path)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{path} is not a checkpoint of this CifarResNet:"
    assert last.startswith("Give the checkpoint of this very network")
    assert len(lines) == 3
    assert all(len(line.split("; ")) <= 6 for line in lines)
    assert "the network expects and the file lacks: layer1.0.conv1.weight; " in lines[0]
    assert lines[0].endswith(" more")
    assert "the file has and the network does not know: block1.layer.0.bn1.weight; " in lines[1]


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    content = {k: v for k, v in small().state_dict().items() if "num_batches" not in k}
    network = small()
    network[1].num_batches_tracked.fill_(9)  # type: ignore[index]
    load_weights(network, write_torch(tmp_path / "net.pth", content))
    assert network.state_dict()["1.num_batches_tracked"] == 9


def test_values_take_the_networks_dtype(tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in small().state_dict().items()}
    network = small()
    load_weights(network, write_torch(tmp_path / "net.pth", half))
    assert network.state_dict()["3.weight"].dtype == torch.float32
    assert torch.equal(network.state_dict()["3.weight"], half["3.weight"].float())


# Writing


def test_saved_weights_come_back_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.safetensors"
    metadata = {"network": "r8", "note": 'é "quoted"\n\x01'}
    save_weights(path, small(), metadata)
    assert same(
        dict(sorted(read_state_dict(path).items())), dict(sorted(small().state_dict().items()))
    )
    assert read_metadata(path) == metadata
    assert [entry.name for entry in path.parent.iterdir()] == ["net.safetensors"]


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    metadata = {str(number): "x" for number in range(6)}
    for number, items in enumerate([list(metadata.items()), list(reversed(metadata.items()))] * 3):
        save_weights(tmp_path / f"{number}.safetensors", small().state_dict(), dict(items))
    assert len({file_sha256(path) for path in tmp_path.iterdir()}) == 1


def test_shared_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    save_weights(tmp_path / "a.safetensors", {"a": weight, "b": weight, "c": weight.T}, {})
    found = read_state_dict(tmp_path / "a.safetensors")
    assert torch.equal(found["a"], found["b"])
    assert torch.equal(found["c"], weight.T)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, {"a": torch.zeros(2)}, {})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(CheckpointError, match=r"cannot write .*net\.safetensors: No space left"):
        save_weights(path, {"a": torch.ones(2)}, {})
    assert torch.equal(read_state_dict(path)["a"], torch.zeros(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "net.pth",
            {"a": torch.ones(1)},
            r"written as \.safetensors, got the file name .*net\.pth",
        ),
        ("n.safetensors", {"a": torch.tensor(float("inf"))}, "not finite: a"),
        ("n.safetensors", {}, "without any tensor"),
        ("n.safetensors", {"a": 3}, r"not plain tensors: a \(int\)"),
        ("file/n.safetensors", {"a": torch.ones(1)}, "cannot write"),
    ],
)
def test_refused_saves(tmp_path: Path, name: str, content: dict[str, Tensor], message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=message):
        save_weights(tmp_path / name, content, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_metadata_of_files_that_carry_none(tmp_path: Path) -> None:
    save_weights(tmp_path / "net.safetensors", small(), {})
    assert read_metadata(tmp_path / "net.safetensors") == {}
    assert read_metadata(write_torch(tmp_path / "net.pth", small().state_dict())) == {}


@pytest.mark.parametrize("kind", ["empty", "truncated", "noise", "web", "folder", "missing"])
def test_metadata_of_broken_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.safetensors"
    make, message = BROKEN[kind]
    make(path)
    with pytest.raises(CheckpointError, match=message.replace("PyTorch", "safetensors")):
        read_metadata(path)


def test_metadata_is_text(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must map text to text"):
        save_weights(tmp_path / "n.safetensors", small(), {"epoch": 3})  # type: ignore[dict-item]


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"weights")
    assert file_sha256(tmp_path / "net.pth") == hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        file_sha256(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        file_sha256(tmp_path)
