"""Heatmaps: of labelled joints, back to keypoints, and of mirrored views.

A heatmap's coordinates are those of the view divided by `STRIDE`: both count from the centre of the
top left pixel, as the published SimpleBaseline and HRNet checkpoints do. Shapes: B batch, J joints,
H, W map.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import pad

from kdcache.tasks import HEATMAP_STRIDE

STRIDE = HEATMAP_STRIDE
SIGMA = 2.0  # heatmap pixels
QUARTER, DARK = "quarter", "dark"
_BLUR = 5  # heatmap pixels that DARK's kernel of 11 reaches to each side
_TAYLOR = 2  # and those that its derivatives look at


def gaussian_heatmaps(
    joints_BJ3: torch.Tensor, height: int, width: int, sigma: float = SIGMA
) -> torch.Tensor:
    """(B, J, height, width) on the joints' device: a Gaussian of peak 1 at each joint.

    `joints_BJ3`: x and y in view pixels, and a weight; a joint of weight 0 has a map of zeros,
    whatever its coordinates. `height`, `width`, `sigma`: in heatmap pixels. The dtype is the
    joints', float32 for narrower ones.

    The centre is the joint's own place, not the nearest heatmap pixel, and the Gaussian is not cut
    off: rounding the centre teaches a bias of up to half a pixel (Zhang et al. 2020,
    arXiv:1910.06278, section 3.3), and SimpleBaseline's cut at 3 sigma saves time only there.
    """
    if joints_BJ3.dim() != 3 or joints_BJ3.shape[2] != 3:
        raise ValueError(f"joints are (B, J, 3), not {tuple(joints_BJ3.shape)}")
    if not sigma > 0:
        raise ValueError(f"sigma is above 0, not {sigma}")
    joints_BJ3 = joints_BJ3.to(torch.promote_types(joints_BJ3.dtype, torch.float32))
    is_labelled_BJ1 = joints_BJ3[..., 2:] > 0
    # Not multiplied by the weight: coordinates of an unlabelled joint may be NaN.
    centre_BJ2 = torch.where(is_labelled_BJ1, joints_BJ3[..., :2] / STRIDE, 0.0)

    def along(size: int, centre_BJ: torch.Tensor) -> torch.Tensor:
        at_S = torch.arange(size, dtype=joints_BJ3.dtype, device=joints_BJ3.device)
        return torch.exp((at_S - centre_BJ[..., None]).square() / (-2 * sigma * sigma))

    row_BJW, column_BJH = along(width, centre_BJ2[..., 0]), along(height, centre_BJ2[..., 1])
    return (column_BJH * is_labelled_BJ1)[..., None] * row_BJW[..., None, :]


def decode_keypoints(heatmaps_BJHW: torch.Tensor, method: str = QUARTER) -> torch.Tensor:
    """float32 (B, J, 3): x and y in view pixels, and the map's peak as score.

    The peak is the first maximum in row order; from there, by `method`:

    "quarter": 0.25 heatmap pixels towards the higher of the two neighbours along each axis, for
    peaks at least 2 pixels from the left and upper edge and 1 from the others (Xiao et al. 2018,
    arXiv:1804.06208, as its code has it, so that published numbers can be compared).
    "dark": one Newton step on the logarithm of the blurred map (Zhang et al. 2020,
    arXiv:1910.06278, equations 4 to 9; kernel of 11, sigma 2), for peaks at least 2 pixels from all
    edges. Left out, other than there, where the map has no
    maximum nearby (no negative definite Hessian) or it is further off than the derivatives look.

    A map without a positive value has no joint: x = y = 0, as SimpleBaseline has it, and its score
    says so. Raises ValueError for an unknown method.
    """
    if method not in _REFINED:
        raise ValueError(f"a method is one of {', '.join(_REFINED)}, not {method!r:.80}")
    if heatmaps_BJHW.dim() != 4:
        raise ValueError(f"heatmaps are (B, J, H, W), not {tuple(heatmaps_BJHW.shape)}")
    heatmaps_BJHW = heatmaps_BJHW.to(torch.promote_types(heatmaps_BJHW.dtype, torch.float32))
    width = heatmaps_BJHW.shape[3]
    flat_BJP = heatmaps_BJHW.flatten(2)
    score_BJ = flat_BJP.amax(dim=2)
    place_BJ = _first(flat_BJP == score_BJ[..., None])
    x_BJ, y_BJ = place_BJ % width, place_BJ // width
    offset_BJ2 = _REFINED[method](heatmaps_BJHW, x_BJ, y_BJ)
    place_BJ2 = torch.stack([x_BJ, y_BJ], dim=2) + offset_BJ2
    place_BJ2 = torch.where((score_BJ > 0)[..., None], place_BJ2 * STRIDE, 0.0)
    return torch.cat([place_BJ2, score_BJ[..., None]], dim=2).to(torch.float32)


def mirror_back(
    heatmaps_BJHW: torch.Tensor, mirrored: Sequence[int], shift: bool = True
) -> torch.Tensor:
    """The heatmaps of mirrored views as those of the views, to be averaged with their own.

    `mirrored`: of a skeleton, joint j of a mirrored person is joint `mirrored[j]` of the person.
    `shift`: one pixel to the right, the first column staying. View pixel x is W - 1 - x in the
    mirrored one, so a map that is only flipped is 1 - 1 / STRIDE pixels too far left: 0.75 without
    the shift, 0.25 too far right with it, which SimpleBaseline's published evaluation has.
    """
    if len(mirrored) != heatmaps_BJHW.shape[-3]:
        raise ValueError(
            f"{len(mirrored)} joints are mirrored, the heatmaps have {heatmaps_BJHW.shape[-3]}"
        )
    swap_J = torch.tensor(list(mirrored), device=heatmaps_BJHW.device)
    back_BJHW = heatmaps_BJHW.index_select(-3, swap_J).flip(-1)
    if shift:
        back_BJHW = torch.cat([back_BJHW[..., :1], back_BJHW[..., :-1]], dim=-1)
    return back_BJHW


def _first(where_BJP: torch.Tensor) -> torch.Tensor:
    """int64 (B, J): the first place that is true; the last one where none is (NaN). torch's argmax
    was seen to take another of equal values than the first that it promises."""
    count = where_BJP.shape[2]
    places_P = torch.arange(count, device=where_BJP.device)
    return torch.where(where_BJP, places_P, count - 1).amin(dim=2)


def _quarter(heatmaps_BJHW: torch.Tensor, x_BJ: torch.Tensor, y_BJ: torch.Tensor) -> torch.Tensor:
    """float32 (B, J, 2) in heatmap pixels: a quarter towards the higher neighbours."""
    window_BJ33 = _windows(heatmaps_BJHW, x_BJ, y_BJ, 1)
    offset_BJ2 = 0.25 * torch.stack(
        [
            (window_BJ33[..., 1, 2] - window_BJ33[..., 1, 0]).sign(),
            (window_BJ33[..., 2, 1] - window_BJ33[..., 0, 1]).sign(),
        ],
        dim=2,
    )
    return torch.where(_inside(heatmaps_BJHW, x_BJ, y_BJ, 1)[..., None], offset_BJ2, 0.0)


def _dark(heatmaps_BJHW: torch.Tensor, x_BJ: torch.Tensor, y_BJ: torch.Tensor) -> torch.Tensor:
    """float32 (B, J, 2) in heatmap pixels: the Newton step to the maximum of the log."""
    reach = _BLUR + _TAYLOR
    window_BJKK = _windows(heatmaps_BJHW, x_BJ, y_BJ, reach).to(torch.float64)
    # Only what the derivatives look at is blurred: 5 x 5 of a map, and zeros lie around it.
    away = torch.arange(-_BLUR, _BLUR + 1, dtype=torch.float64, device=window_BJKK.device)
    kernel = torch.exp(away.square() / -8)
    kernel /= kernel.sum()
    for _ in range(2):  # rows, then columns
        window_BJKK = (window_BJKK.unfold(3, 2 * _BLUR + 1, 1) * kernel).sum(-1).transpose(2, 3)
    log_BJ55 = window_BJKK.clamp(min=1e-10).log()

    def at(dx: int, dy: int) -> torch.Tensor:
        return log_BJ55[..., _TAYLOR + dy, _TAYLOR + dx]

    # Equations 6 and 7, by central differences.
    dx_BJ, dy_BJ = 0.5 * (at(1, 0) - at(-1, 0)), 0.5 * (at(0, 1) - at(0, -1))
    dxx_BJ = 0.25 * (at(2, 0) - 2 * at(0, 0) + at(-2, 0))
    dyy_BJ = 0.25 * (at(0, 2) - 2 * at(0, 0) + at(0, -2))
    dxy_BJ = 0.25 * (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1))
    determinant_BJ = dxx_BJ * dyy_BJ - dxy_BJ * dxy_BJ
    is_maximum_BJ = (dxx_BJ < 0) & (determinant_BJ > 0)
    divisor_BJ = torch.where(is_maximum_BJ, determinant_BJ, 1.0)
    # Equation 9: the inverse Hessian times the gradient, negative.
    step_BJ2 = torch.stack([dxy_BJ * dy_BJ - dyy_BJ * dx_BJ, dxy_BJ * dx_BJ - dxx_BJ * dy_BJ], 2)
    step_BJ2 = step_BJ2 / divisor_BJ[..., None]
    is_sound_BJ = is_maximum_BJ & (step_BJ2.abs() <= _TAYLOR).all(dim=2)
    is_sound_BJ &= _inside(heatmaps_BJHW, x_BJ, y_BJ, _TAYLOR)
    return torch.where(is_sound_BJ[..., None], step_BJ2, 0.0).to(torch.float32)


_Refine = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_REFINED: dict[str, _Refine] = {QUARTER: _quarter, DARK: _dark}


def _windows(
    heatmaps_BJHW: torch.Tensor, x_BJ: torch.Tensor, y_BJ: torch.Tensor, reach: int
) -> torch.Tensor:
    """(B, J, K, K): what lies up to `reach` pixels from each place; zeros outside the map."""
    padded_BJHW = pad(heatmaps_BJHW, (reach,) * 4)
    width = padded_BJHW.shape[3]
    away_K = torch.arange(2 * reach + 1, device=heatmaps_BJHW.device)
    row_BJK1 = (y_BJ[..., None] + away_K)[..., None]
    column_BJ1K = (x_BJ[..., None] + away_K)[..., None, :]
    place_BJP = (row_BJK1 * width + column_BJ1K).flatten(2)
    windows_BJP = padded_BJHW.flatten(2).gather(2, place_BJP)
    return windows_BJP.view(*x_BJ.shape, len(away_K), len(away_K))


def _inside(
    heatmaps_BJHW: torch.Tensor, x_BJ: torch.Tensor, y_BJ: torch.Tensor, margin: int
) -> torch.Tensor:
    """bool (B, J): as the published code of both methods has it, which is not the same on all
    sides: 1 < x < width - margin, and the same of y."""
    height, width = heatmaps_BJHW.shape[2:]
    return (x_BJ > 1) & (x_BJ < width - margin) & (y_BJ > 1) & (y_BJ < height - margin)
