"""Our reader of torch's files equals torch's own, on every kind of number and both containers."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcache.checkpoints import read_state_dict

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), max_size=4),
    dims=st.randoms(use_true_random=False),
    start=st.integers(0, 3),
    protocol=st.integers(2, 5),
    old=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_it_reads_what_torch_reads(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: list[int],
    dims: Any,
    start: int,
    protocol: int,
    old: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "net.pth"
    numel = torch.Size(shape).numel()
    base = (torch.arange(numel + start) % 2).to(dtype)
    order = list(range(len(shape)))
    dims.shuffle(order)
    view = base[start:].view(shape).permute(order)
    content = OrderedDict(a=view, b=base, c=nn.Parameter(torch.ones(2)), d=torch.tensor(3.0))
    if old and dtype in DTYPES[12:]:
        return  # the older format has no such kinds
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    found = read_state_dict(path)
    expected = torch.load(path, weights_only=protocol == 2)
    assert list(found) == list(expected)
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        assert value.stride() == expected[key].stride()
        same = value.view(torch.uint8) if value.element_size() == 1 else value
        other = expected[key].view(torch.uint8) if value.element_size() == 1 else expected[key]
        assert torch.equal(same, other)
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()
