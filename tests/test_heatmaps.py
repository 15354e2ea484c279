"""Heatmaps of joints, keypoints of heatmaps, and maps of mirrored views, against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from kdcache.datasets.skeleton import SKELETONS
from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps, mirror_back

FloatArray = NDArray[np.float32]


def joints_of(count: int, seed: int, height: int = 64, width: int = 48) -> torch.Tensor:
    """(count, 17, 3): labelled joints, at least 5 heatmap pixels from every edge."""
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(20, 4 * size - 24, (count, 17)) for size in (width, height))
    return torch.tensor(np.stack([x, y, np.ones_like(x)], axis=2), dtype=torch.float32)


def noisy_maps(count: int, seed: int) -> torch.Tensor:
    """What networks give: Gaussians of any height with a smooth floor, some maps of floor alone."""
    rng = np.random.default_rng(seed)
    maps = gaussian_heatmaps(joints_of(count, seed), 64, 48).numpy()
    maps *= rng.choice([0.0, 0.3, 1.0], (count, 17, 1, 1))
    floor = rng.normal(0, 0.03, maps.shape)
    floor = floor + np.roll(floor, 1, axis=2) + np.roll(floor, 1, axis=3)
    return torch.from_numpy((maps + floor).astype(np.float32))


def plain_peak(heatmap: FloatArray) -> tuple[int, int, float]:
    """x, y and value of the first maximum, row by row."""
    x, y = 0, 0
    for row in range(heatmap.shape[0]):
        for column in range(heatmap.shape[1]):
            if heatmap[row, column] > heatmap[y, x]:
                x, y = column, row
    return x, y, float(heatmap[y, x])


def plain_quarter(heatmap: FloatArray) -> tuple[float, float, float]:
    """As `get_final_preds` of SimpleBaseline and HRNet goes about it, without its arrays."""
    height, width = heatmap.shape
    x, y, score = plain_peak(heatmap)
    if score <= 0:
        return 0.0, 0.0, score
    if not (1 < x < width - 1 and 1 < y < height - 1):
        return 4.0 * x, 4.0 * y, score
    right = float(heatmap[y, x + 1]) - float(heatmap[y, x - 1])
    down = float(heatmap[y + 1, x]) - float(heatmap[y - 1, x])
    return 4 * (x + 0.25 * np.sign(right)), 4 * (y + 0.25 * np.sign(down)), score


def plain_dark(heatmap: FloatArray) -> tuple[float, float, float]:
    """As `taylor` of DARK's code, on the whole map blurred pixel by pixel."""
    height, width = heatmap.shape
    x, y, score = plain_peak(heatmap)
    if score <= 0:
        return 0.0, 0.0, score
    if not (1 < x < width - 2 and 1 < y < height - 2):
        return 4.0 * x, 4.0 * y, score
    tap = [math.exp(-(d**2) / 8) for d in range(-5, 6)]
    total = sum(a * b for a in tap for b in tap)

    def log_at(dx: int, dy: int) -> float:
        blurred = 0.0
        for j in range(-5, 6):
            for i in range(-5, 6):
                row, column = y + dy + j, x + dx + i
                if 0 <= row < height and 0 <= column < width:
                    blurred += tap[i + 5] * tap[j + 5] * float(heatmap[row, column]) / total
        return math.log(max(blurred, 1e-10))

    gradient = [(log_at(1, 0) - log_at(-1, 0)) / 2, (log_at(0, 1) - log_at(0, -1)) / 2]
    xx = (log_at(2, 0) - 2 * log_at(0, 0) + log_at(-2, 0)) / 4
    yy = (log_at(0, 2) - 2 * log_at(0, 0) + log_at(0, -2)) / 4
    xy = (log_at(1, 1) - log_at(-1, 1) - log_at(1, -1) + log_at(-1, -1)) / 4
    hessian = np.array([[xx, xy], [xy, yy]])
    if not (np.linalg.eigvalsh(hessian) < 0).all():
        return 4.0 * x, 4.0 * y, score
    step = -np.linalg.inv(hessian) @ gradient
    if np.abs(step).max() > 2:
        return 4.0 * x, 4.0 * y, score
    return 4 * (x + step[0]), 4 * (y + step[1]), score


PLAIN = {"quarter": plain_quarter, "dark": plain_dark}


def test_a_gaussian_is_the_plain_loop() -> None:
    joints = torch.tensor(
        [[[10.0, 7.5, 1.0], [0.0, 0.0, 1.0]], [[-9.0, 100.0, 1.0], [3.0, 5.0, 0]]]
    )
    maps = gaussian_heatmaps(joints, 6, 5, sigma=1.5)
    assert (maps.shape, maps.dtype) == ((2, 2, 6, 5), torch.float32)
    for b in range(2):
        for j in range(2):
            x, y, weight = joints[b, j].tolist()
            for row in range(6):
                for column in range(5):
                    squared = (column - x / 4) ** 2 + (row - y / 4) ** 2
                    expected = weight * math.exp(-squared / (2 * 1.5**2))
                    assert maps[b, j, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_its_peak_is_1_at_a_heatmap_pixel_and_sigma_is_2() -> None:
    heatmap = gaussian_heatmaps(torch.tensor([[[40.0, 80.0, 1.0]]]), 64, 48)[0, 0]
    assert heatmap[20, 10] == 1.0
    assert heatmap[20, 12].item() == pytest.approx(math.exp(-0.5), abs=1e-6)
    assert heatmap.sum().item() == pytest.approx(2 * math.pi * 4, rel=1e-3)


@pytest.mark.parametrize("place", [5.0, math.nan, math.inf, -1e30])
def test_a_joint_of_weight_0_has_an_empty_map(place: float) -> None:
    joints = torch.tensor([[[place, place, 0.0], [20.0, 20.0, 1.0]]])
    maps = gaussian_heatmaps(joints, 8, 8)
    assert not maps[0, 0].any()
    assert maps[0, 1, 5, 5] == 1.0


@pytest.mark.parametrize("method", PLAIN)
def test_decoding_is_the_plain_loop(method: str) -> None:
    maps = noisy_maps(3, seed=1)
    decoded = decode_keypoints(maps, method)
    assert (decoded.shape, decoded.dtype) == ((3, 17, 3), torch.float32)
    for b in range(3):
        for j in range(17):
            expected = PLAIN[method](maps[b, j].numpy())
            assert decoded[b, j].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", PLAIN)
@settings(deadline=None)
@given(
    values=arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 8), st.integers(1, 8)),
        elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]),
    )
)
@example(values=np.zeros((1, 1, 5, 5), dtype=np.float32))
@example(values=np.full((1, 1, 7, 7), 0.5, dtype=np.float32))
def test_ties_go_to_the_first_and_edges_are_safe(method: str, values: FloatArray) -> None:
    decoded = decode_keypoints(torch.from_numpy(values), method)
    for b, maps in enumerate(values):
        for j, heatmap in enumerate(maps):
            x, y, score = plain_peak(heatmap)
            assert decoded[b, j, 2] == score
            if score <= 0:
                assert decoded[b, j, :2].tolist() == [0.0, 0.0]
            else:
                assert np.abs(decoded[b, j, :2].numpy() / 4 - [x, y]).max() <= 2
            if method == "quarter":
                assert decoded[b, j].tolist() == list(plain_quarter(heatmap))


@pytest.mark.parametrize(
    ("method", "mean", "most"), [("quarter", 0.21, 0.36), ("dark", 0.002, 0.01)]
)
def test_gaussians_anywhere_between_pixels_are_found(method: str, mean: float, most: float) -> None:
    """In heatmap pixels: a quarter is at most 0.25 off along each axis, by design; DARK is exact
    but for what the blur loses at float32."""
    joints = joints_of(40, seed=2)
    decoded = decode_keypoints(gaussian_heatmaps(joints, 64, 48), method)
    off = (decoded[..., :2] - joints[..., :2]).norm(dim=2) / 4
    assert off.mean() < mean
    assert off.max() < most
    assert (decoded[..., 2] > 0.93).all()


def test_dark_finds_joints_under_noise_better() -> None:
    joints = joints_of(40, seed=3)
    noise = torch.from_numpy(np.random.default_rng(3).normal(0, 0.01, (40, 17, 64, 48)))
    maps = gaussian_heatmaps(joints, 64, 48) + noise.to(torch.float32)
    off = {
        method: (decode_keypoints(maps, method)[..., :2] - joints[..., :2]).norm(dim=2).mean() / 4
        for method in PLAIN
    }
    assert off["dark"] < 0.05 < 0.1 < off["quarter"]


@pytest.mark.parametrize("method", PLAIN)
def test_one_by_one_is_as_in_batches(method: str) -> None:
    maps = noisy_maps(5, seed=4)
    together = decode_keypoints(maps, method)
    alone = torch.cat([decode_keypoints(one[None], method) for one in maps])
    assert torch.equal(together, alone)
    joints = joints_of(5, seed=4)
    apart = torch.cat([gaussian_heatmaps(one[None], 64, 48) for one in joints])
    assert torch.equal(gaussian_heatmaps(joints, 64, 48), apart)


@pytest.mark.parametrize("method", PLAIN)
def test_a_shifted_map_has_its_keypoint_shifted(method: str) -> None:
    """And the map's scale is nothing to a keypoint's place."""
    maps = gaussian_heatmaps(joints_of(4, seed=5), 64, 48)
    here = decode_keypoints(maps, method)[..., :2]
    there = decode_keypoints(maps.roll((2, -1), dims=(2, 3)), method)[..., :2]
    torch.testing.assert_close(there, here + torch.tensor([-4.0, 8.0]), atol=0.12, rtol=0)
    torch.testing.assert_close(decode_keypoints(maps / 8, method)[..., :2], here)


@pytest.mark.parametrize("name", SKELETONS)
def test_a_mirrored_person_is_put_back(name: str) -> None:
    """View pixel x is W - 1 - x in the mirrored view, and its joints change names."""
    skeleton = SKELETONS[name]
    joints = joints_of(6, seed=6)[:, : skeleton.num_joints]
    seen = joints.clone()
    seen[..., 0] = 191 - seen[..., 0]
    seen = seen[:, list(skeleton.mirrored)]
    maps = gaussian_heatmaps(seen, 64, 48)
    for shift, off in ((True, 0.25), (False, -0.75)):
        back = decode_keypoints(mirror_back(maps, skeleton.mirrored, shift), "dark")
        expected = joints[..., :2] + torch.tensor([4 * off, 0.0])
        torch.testing.assert_close(back[..., :2], expected, atol=0.04, rtol=0)


def test_mirroring_twice_is_nothing_and_the_shift_keeps_the_first_column() -> None:
    maps = noisy_maps(2, seed=7)
    mirrored = SKELETONS["coco-17"].mirrored
    once = mirror_back(maps, mirrored, shift=False)
    assert torch.equal(once[1, 3, 10], maps[1, 4, 10].flip(0))
    assert torch.equal(mirror_back(once, mirrored, shift=False), maps)
    shifted = mirror_back(maps, mirrored)
    assert torch.equal(shifted[..., 1:], once[..., :-1])
    assert torch.equal(shifted[..., 0], once[..., 0])


def test_what_makes_no_sense_is_refused() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match="a method is one of quarter, dark, not 'udp'"):
        decode_keypoints(maps, "udp")
    with pytest.raises(ValueError, match=r"heatmaps are \(B, J, H, W\), not \(2, 8, 8\)"):
        decode_keypoints(maps[0])
    with pytest.raises(ValueError, match="17 joints are mirrored, the heatmaps have 2"):
        mirror_back(maps, SKELETONS["coco-17"].mirrored)
    with pytest.raises(ValueError, match=r"joints are \(B, J, 3\), not \(2, 3\)"):
        gaussian_heatmaps(torch.zeros(2, 3), 8, 8)
    with pytest.raises(ValueError, match="sigma is above 0, not 0"):
        gaussian_heatmaps(torch.zeros(1, 2, 3), 8, 8, sigma=0)
