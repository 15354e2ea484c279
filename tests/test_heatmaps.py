"""The Gaussians of labels, against a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.heatmaps import gaussian_heatmaps


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 7),
    st.sampled_from([1.0, 2.0, 3.5]),
)
def test_they_are_what_a_plain_loop_draws(
    seed: int, B: int, J: int, H: int, W: int, sigma: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    joints_BJ3 = 4 * max(H, W) * torch.rand(B, J, 3, generator=draw, dtype=torch.float64)
    joints_BJ3[..., 2] = (joints_BJ3[..., 2] > 10).double()
    found = gaussian_heatmaps(joints_BJ3, H, W, sigma)
    assert found.shape == (B, J, H, W)
    for b in range(B):
        for j in range(J):
            x0, y0, weight = joints_BJ3[b, j].tolist()
            for y in range(H):
                for x in range(W):
                    d2 = (x - x0 / 4) ** 2 + (y - y0 / 4) ** 2
                    expected = weight * math.exp(-d2 / (2 * sigma**2))
                    assert found[b, j, y, x].item() == pytest.approx(expected, rel=1e-12)


def test_the_peak_is_one_at_a_whole_pixel_and_lower_between_two() -> None:
    joints = torch.tensor([[[40.0, 80.0, 1.0], [42.0, 80.0, 1.0], [42.0, 82.0, 1.0]]])
    peaks = gaussian_heatmaps(joints, 64, 48).amax(dim=(-2, -1))[0].tolist()
    assert peaks == pytest.approx([1.0, math.exp(-1 / 32), math.exp(-1 / 16)])
    assert gaussian_heatmaps(joints, 64, 48)[0, 0, 20, 10] == 1


def test_an_unlabelled_joint_is_blank_wherever_it_is_said_to_be() -> None:
    joints = torch.tensor([[[math.nan, math.inf, 0.0], [10.0, 10.0, 0.0]]])
    assert (gaussian_heatmaps(joints, 8, 6) == 0).all()
    assert gaussian_heatmaps(joints, 8, 6).dtype == torch.float32
