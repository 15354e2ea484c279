"""Heatmaps and switches the pose losses' tests share."""

import itertools
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from kdcache.heatmaps import gaussian_heatmaps


class Maps(NamedTuple):
    student_BJHW: Tensor
    joints_BJ3: Tensor
    mentors_BMJHW: Tensor


def make_maps(
    seed: int = 0,
    *,
    B: int = 3,
    M: int = 3,
    J: int = 4,
    H: int = 9,
    W: int = 7,
    dtype: torch.dtype = torch.float64,
    odd: bool = True,
) -> Maps:
    """Maps of every quality: peaks of any height, more or less misplaced, with noise.

    `odd`: also blank, constant and negative ones, and ones whose joint is at a wrong place.
    """
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    joints_BJ3 = torch.zeros(B, J, 3, dtype=torch.float64)
    joints_BJ3[..., 0] = uniform(B, J) * (4 * W - 1)
    joints_BJ3[..., 1] = uniform(B, J) * (4 * H - 1)
    joints_BJ3[..., 2] = (uniform(B, J) < 0.75).double()

    def maps_of(error: float) -> Tensor:
        seen_BJ3 = joints_BJ3.clone()
        seen_BJ3[..., :2] += 4 * error * (uniform(B, J, 2) - 0.5)
        seen_BJ3[..., 2] = 1
        height_BJ11 = 0.05 + uniform(B, J, 1, 1)
        maps_BJHW = height_BJ11 * gaussian_heatmaps(seen_BJ3, H, W)
        maps_BJHW += 0.05 * (uniform(B, J, H, W) - 0.5)
        if odd:
            kind_BJ11 = torch.randint(10, (B, J, 1, 1), generator=draw)
            swapped_BJHW = maps_BJHW.roll(1, dims=1)
            others = (torch.zeros(1), torch.full((1,), 0.3), -maps_BJHW.abs(), swapped_BJHW)
            for kind, other in enumerate(others):
                maps_BJHW = torch.where(kind_BJ11 == kind, other.double(), maps_BJHW)
        return maps_BJHW

    student_BJHW = maps_of(3.0)
    mentors_BMJHW = torch.stack([maps_of(1.0 + m) for m in range(M)], dim=1)
    return Maps(student_BJHW.to(dtype), joints_BJ3.float(), mentors_BMJHW.to(dtype))


SIGMAS = (0.3, 0.5, 0.2, 0.4)  # wide: the reference takes a confidence that underflows for none

AXES: dict[str, list[dict[str, object]]] = {
    "granularity": [{"granularity": "joint"}, {"granularity": "sample"}],
    "confidence": [{}, {"confidence": "oks", "sigmas": SIGMAS}, {"min_peak": 0.4}],
    "divergence": [{}, {"divergence": "kl"}, {"divergence": "kl", "beta": 10.0}],
    "gate": [{}, {"gate_margin": 0.1}, {"gate_margin": -0.2}, {"gate": "soft"}, {"gate": "off"}],
    "mentor_weight": [{}, {"mentor_weight": "one"}],
    "task_weight": [{}, {"task_weight": "confidence"}],
    "temperature": [
        {},
        {"tau": 4.0, "t_max": 2.5},
        {"temperature": "fixed", "fixed_temperature": 3.0},
    ],
    "gap": [{}, {"gap": "difference"}],
    "kd_scale": [{}, {"kd_scale": "per-active-weight"}, {"kd_scale": 0.3}],
}


def switch_grid() -> list[dict[str, object]]:
    """Every valid combination of HeatmapClassroomLoss switches."""
    grid: list[dict[str, object]] = []
    for parts in itertools.product(*AXES.values()):
        switches = {name: value for part in parts for name, value in part.items()}
        if not (switches.get("gate") == "soft" and "mentor_weight" in switches):
            grid.append(switches)
    return grid


@st.composite
def maps(draw: st.DrawFn, joints: int | None = None) -> Maps:
    return make_maps(
        draw(st.integers(0, 2**32 - 1)),
        B=draw(st.integers(1, 3)),
        M=draw(st.integers(1, 3)),
        J=joints or draw(st.integers(1, 4)),
        H=draw(st.integers(3, 9)),
        W=draw(st.integers(3, 7)),
    )
