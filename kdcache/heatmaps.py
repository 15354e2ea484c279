"""Heatmaps of labelled joints: what a pose network is trained to draw.

A view of height x width pixels has maps a quarter as high and wide (`STRIDE`): pixel (x, y) of a
view is (x / 4, y / 4) of its maps, as in the code of SimpleBaseline (Xiao et al.,
https://arxiv.org/abs/1804.06208) and HRNet (Sun et al., https://arxiv.org/abs/1902.09212). Those
round the centre to a whole pixel and cut the Gaussian off at 3 sigma; here neither is done, so that
a map's maximum may lie between pixels, where decoding looks for it.

Shapes: B batch, J joints, H, W of a map.
"""

import torch
from torch import Tensor

STRIDE = 4
"""View pixels a heatmap pixel, along each axis."""

SIGMA = 2.0
"""Of a label's Gaussian, in heatmap pixels."""


def gaussian_heatmaps(joints_BJ3: Tensor, height: int, width: int, sigma: float = SIGMA) -> Tensor:
    """(B, J, height, width), of the joints' dtype: a Gaussian of peak 1 at each labelled joint.

    `joints_BJ3`: x, y in view pixels and a weight; joints of weight 0 get an empty map, whatever
    their coordinates. `sigma` in heatmap pixels. The centre is not rounded.
    """
    labelled_BJ1 = joints_BJ3[..., 2:] > 0
    centre_BJ2 = joints_BJ3[..., :2].where(labelled_BJ1, torch.zeros_like(joints_BJ3[..., :2]))
    centre_BJ2 = centre_BJ2 / STRIDE
    x_BJW, y_BJH = (
        _gaussian(centre_BJ2[..., axis], size, sigma) for axis, size in ((0, width), (1, height))
    )
    x_BJW = x_BJW * labelled_BJ1.to(x_BJW.dtype)
    return y_BJH.unsqueeze(-1) * x_BJW.unsqueeze(-2)


def _gaussian(centre_BJ: Tensor, size: int, sigma: float) -> Tensor:
    place_S = torch.arange(size, dtype=centre_BJ.dtype, device=centre_BJ.device)
    return torch.exp((place_S - centre_BJ.unsqueeze(-1)).square() / (-2 * sigma**2))
