"""How sure a heatmap is of where its joint is, as -ln of a confidence `a` between 0 and 1.

    "peak"  a = exp(-||relu(h) / max(relu(h)) - g||^2 / ||g||^2)     g: the label's Gaussian
    "oks"   a = exp(-d^2 / (2 s^2 k^2)),  k = 2 sigma                d: from label to decoded point

Both are 0 (a loss of inf) where the map's peak is below `min_peak`, or not above 0: such a map does
not see its joint, whatever shape its values have.

Why the peak is divided out: a plain relative error `||h - g||^2 / ||g||^2` mixes a map's height
with its place. It is 1 for a blank map and 2 for one that has the right shape at a wrong place, so
a mentor that sees nothing would rank above one that took the left knee for the right. Divided by
its peak a map is compared by shape and place alone; being blank is what `min_peak` says.

"oks" is the keypoint similarity of COCO's evaluation (cocodataset.org, "Keypoints Evaluation").
The point is the maximum moved by a quarter of a pixel towards its higher neighbour along each axis,
as in SimpleBaseline (https://arxiv.org/abs/1804.06208, section 2), and `s^2` is the person's area.

The losses are kept rather than the confidences, because `exp(-l)` is 0 in float32 once l > 103: a
constant map has a "peak" loss of about HW / 12.6, and still ranks above a blank one.

Shapes: B batch, K maps of each joint (the student's alone, or the mentors'), J joints, H, W of a
map. Dtype: that of the maps. Nothing here has a gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.heatmaps import STRIDE, decode_keypoints

# The area of a person over that of its view, where nobody says it: views are made from the
# person's box, enlarged 1.25 times, and COCO's tools take 0.53 of a box for its person's area.
PERSON_OF_VIEW = 0.53 / 1.25**2


def peak_loss(maps_BKJHW: Tensor, label_BJHW: Tensor, *, min_peak: float) -> Tensor:
    """(B, K, J): squared distance of the peak-normalised map from the label's Gaussian, over its
    square; inf for maps that do not see the joint."""
    tiny = torch.finfo(maps_BKJHW.dtype).tiny
    label_B1JHW = label_BJHW.unsqueeze(1)
    peak_BKJ = maps_BKJHW.amax(dim=(-2, -1))
    # In place, on one tensor of the maps' size.
    apart_BKJHW = torch.relu(maps_BKJHW.detach())
    apart_BKJHW.div_(peak_BKJ.clamp(min=tiny)[..., None, None]).sub_(label_B1JHW).square_()
    energy_B1J = label_B1JHW.square().sum(dim=(-2, -1)).clamp(min=tiny)
    return _unseen(apart_BKJHW.sum(dim=(-2, -1)) / energy_B1J, peak_BKJ, min_peak)


def oks_loss(
    maps_BKJHW: Tensor,
    joints_BJ3: Tensor,
    *,
    sigmas: Sequence[float],
    scale_B: Tensor | None,
    min_peak: float,
) -> Tensor:
    """(B, K, J): squared distance of the decoded point over the joint's tolerance; inf for maps
    that do not see the joint.

    `sigmas`: J numbers, the annotators' deviation over the person's scale. `scale_B`: the squared
    scale in view pixels; None: `PERSON_OF_VIEW` of the view's area, the same for all samples.
    """
    H, W = maps_BKJHW.shape[-2:]
    points = decode_keypoints(maps_BKJHW.detach().flatten(0, 1))[..., :2]
    point_BKJ2 = points.view(*maps_BKJHW.shape[:3], 2).to(maps_BKJHW.dtype)
    square_BKJ = (point_BKJ2 - joints_BJ3[:, None, :, :2]).square().sum(dim=-1)
    # Written on the device: a tensor made of them would be copied to it.
    k_J = torch.stack([square_BKJ.new_full((), 2 * sigma) for sigma in sigmas])
    if scale_B is None:
        scale_B = square_BKJ.new_full((1,), PERSON_OF_VIEW * H * W * STRIDE**2)
    # cocodataset.org, Keypoints Evaluation: d_i^2 / (2 s^2 k_i^2).
    tolerance_B1J = 2 * scale_B[:, None, None] * k_J.square()
    tolerance_B1J = tolerance_B1J.clamp(min=torch.finfo(square_BKJ.dtype).tiny)
    return _unseen(square_BKJ / tolerance_B1J, maps_BKJHW.amax(dim=(-2, -1)), min_peak)


def _unseen(loss_BKJ: Tensor, peak_BKJ: Tensor, min_peak: float) -> Tensor:
    # A peak that is not a number passes: its loss is none either, and is not to be hidden.
    return loss_BKJ.masked_fill((peak_BKJ < min_peak) | (peak_BKJ <= 0), torch.inf)


def mean_over_joints(loss_BKJ: Tensor, visible_BJ: Tensor) -> Tensor:
    """(B, K): -ln of the mean confidence of the visible joints; inf where it is 0, or none is."""
    counted_BKJ = (-loss_BKJ).masked_fill(~visible_BJ.unsqueeze(1), -torch.inf)
    visible_B1 = visible_BJ.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.log(visible_B1.to(loss_BKJ.dtype)) - torch.logsumexp(counted_BKJ, dim=2)
