"""Whole files, damaged at random: finite tensors or a CheckpointError, and nothing else."""

import contextlib
import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.checkpoints import read_metadata, read_state_dict
from kdcache.errors import CheckpointError
from tests.checkpoints.made import rezipped, safetensors_bytes, torch_bytes

mutations = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
        st.tuples(st.just("set"), st.floats(0, 1), st.sampled_from([0, 0x7F, 0x80, 0xFF])),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 64)),
        st.tuples(st.just("copy"), st.floats(0, 1), st.integers(1, 64)),
        st.tuples(st.just("end"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("word"), st.floats(0, 1), st.sampled_from([4, 8])),
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    for kind, where, how in changes:
        place = int(where * (len(data) - 1)) if data else 0
        before, after = data[:place], data[place:]
        data = {
            "flip": before + bytes([(after[:1] or b"\0")[0] ^ (how & 255)]) + after[1:],
            "set": before + bytes([how & 255]) + after[1:],
            "cut": before + after[how:],
            "copy": before + after[:how] + after,
            "end": before,
            "word": before + b"\xff" * how + after[how:],
        }[kind]
    return data


def wholes() -> dict[str, tuple[str, bytes]]:
    content = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(4), "c": torch.ones(3) > 0}
    wrapped = {"epoch": 3, "state_dict": OrderedDict(content), "name": "x" * 20}
    tensors = {key: value.contiguous() for key, value in content.items()}
    made = {
        "zip": (".pth", torch_bytes(content)),
        "stream": (".th", torch_bytes(content, old=True)),
        "wrapped": (".pt", torch_bytes(wrapped)),
        "safetensors": (".safetensors", safetensors.torch.save(tensors, {"made": "here"})),
    }
    with zipfile.ZipFile(io.BytesIO(made["zip"][1])) as archive:
        names = archive.namelist()
    assert any(name.endswith("data.pkl") for name in names)
    return made


def read_or_refused(path: Path) -> None:
    """The whole promise: finite tensors, or a CheckpointError, and nothing else."""
    try:
        found = read_state_dict(path)
    except CheckpointError as error:
        message = str(error)
    else:
        message = str(path)
        values = found.values()
        assert all(isinstance(value, Tensor) for value in values)
        assert all(torch.isfinite(v).all() for v in values if v.is_floating_point())
        assert sum(value.numel() for value in values) < 10**6
    assert str(path) in message
    assert len(message) < len(str(path)) + 2000


WHOLES = wholes()


@given(kind=st.sampled_from(sorted(WHOLES)), changes=mutations)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[str, float, int]]
) -> None:
    suffix, data = WHOLES[kind]
    path = tmp_path_factory.getbasetemp() / f"mutated{suffix}"
    path.write_bytes(mutated(data, changes))
    read_or_refused(path)


@given(changes=mutations)
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_pickles_in_whole_zip_files(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, float, int]]
) -> None:
    """The archive's checksums would refuse most damage, so the pickle is changed before it is
    packed."""
    content = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(4)}

    def change(entries: dict[str, bytes]) -> None:
        for name in entries:
            if name.endswith("data.pkl"):
                entries[name] = mutated(entries[name], changes)

    path = tmp_path_factory.getbasetemp() / "pickle.pth"
    path.write_bytes(rezipped(content, change))
    read_or_refused(path)


@given(changes=mutations)
@settings(deadline=None, max_examples=300)
def test_mutated_headers(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, float, int]]
) -> None:
    """The header's size follows its damage, so that more of it is read."""
    whole = WHOLES["safetensors"][1]
    size = int.from_bytes(whole[:8], "little")
    header = mutated(whole[8 : 8 + size], changes)
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(safetensors_bytes(header, whole[8 + size :]))
    read_or_refused(path)
    with contextlib.suppress(CheckpointError):
        assert all(isinstance(text, str) for text in read_metadata(path).values())
