"""Batches and switches the tests of this folder share."""

import itertools
from typing import NamedTuple

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor


class Batch(NamedTuple):
    student_logits_BC: Tensor
    labels_B: Tensor
    mentor_logits_BMC: Tensor


def make_batch(
    seed: int = 0,
    *,
    B: int = 5,
    M: int = 3,
    C: int = 4,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.5,
) -> Batch:
    """Random logits; the labels are random, so mentors stand above and below the student."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(B, C, generator=generator, dtype=torch.float64) * scale
    mentors = torch.randn(B, M, C, generator=generator, dtype=torch.float64) * scale
    labels = torch.randint(C, (B,), generator=generator)
    return Batch(student.to(dtype), labels, mentors.to(dtype))


def switch_grid(granularity: str) -> list[dict[str, object]]:
    """Every valid combination of ClassroomLoss switches, one or two values for each number."""
    axes: dict[str, list[dict[str, object]]] = {
        "gate": [
            {"gate": "hard"},
            {"gate": "hard", "gate_margin": 0.1},
            {"gate": "soft"},
            {"gate": "off"},
        ],
        "mentor_weight": [{"mentor_weight": "confidence"}, {"mentor_weight": "one"}],
        "task_weight": [{"task_weight": "confidence"}, {"task_weight": "one"}],
        "temperature": [
            {"temperature": "gap", "tau": 12.0},
            {"temperature": "gap", "tau": 4.0, "t_max": 2.5},
            {"temperature": "fixed", "fixed_temperature": 3.0},
        ],
        "gap": [{"gap": "ratio"}, {"gap": "difference"}],
        "kd_scale": [{"kd_scale": "sum"}, {"kd_scale": "per-active-weight"}, {"kd_scale": 0.3}],
        "round_shares": [{}, {"round_shares": 2}, {"round_shares": 1}],
    }
    if granularity == "sample":
        axes["round_shares"] = [{}]
    grid: list[dict[str, object]] = []
    for parts in itertools.product(*axes.values()):
        switches: dict[str, object] = {"granularity": granularity}
        for part in parts:
            switches.update(part)
        if not (switches["gate"] == "soft" and switches["mentor_weight"] == "one"):
            grid.append(switches)
    return grid


def rank_grid(granularity: str) -> list[dict[str, object]]:
    """Rank weighting with every switch that meets it."""
    axes: list[list[dict[str, object]]] = [
        [{}, {"gate_margin": 0.1}, {"gate": "soft"}, {"gate": "off"}],
        [{}, {"rank_scale": 4.0}, {"teachers": (0,)}, {"teachers": [2, 0]}],
        [{}, {"tau": 4.0, "t_max": 2.5}, {"temperature": "fixed", "fixed_temperature": 3.0}],
        [{}, {"gap": "ratio"}, {"gap": "difference"}],
        [{}, {"kd_scale": "per-active-weight"}, {"kd_scale": 0.3}],
    ]
    grid: list[dict[str, object]] = [
        {"mentor_weight": "one"}, {"mentor_weight": "one", "task_weight": "one", "gate": "off"},
    ]  # fmt: skip
    grid += [
        {key: part[key] for part in parts for key in part} for parts in itertools.product(*axes)
    ]
    return [{"weighting": "rank", "granularity": granularity, **switches} for switches in grid]


# Examples are replayed in the same order on every machine; each builds three tiny tensors.
quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32 - 1)
granularities = st.sampled_from(["sample", "batch"])


@st.composite
def batches(draw: st.DrawFn, least_mentors: int = 1) -> Batch:
    return make_batch(
        draw(seeds),
        B=draw(st.integers(1, 6)),
        M=draw(st.integers(least_mentors, 5)),
        C=draw(st.integers(2, 7)),
        scale=draw(st.sampled_from([0.1, 1.0, 4.0])),
    )
