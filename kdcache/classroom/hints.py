"""Multi-group hints: the student's pooled features are led to each mentor's (intermediate level).

Liu et al. (https://arxiv.org/abs/2103.04062), section 3.3, after Romero et al., "FitNets"
(https://arxiv.org/abs/1412.6550), equation 3:

    hint_im = mean over F_m of ( normalised(v_im) - A_m normalised(beta_i) )^2

`normalised` is to length 1 over the channels, `A_m` a 1x1 convolution without bias, which on pooled
features is a matrix. The paper leads the student's g-th group of layers to mentor g's, map by map;
a store holds each mentor's *pooled* last features and the student has one last group, so here every
mentor g leads that one group through an `A_g` of its own. Places in the map are not compared.

The M matrices are rows of one, and the mentors' features columns of one, whatever their widths:
no loop over mentors.

Shapes: B batch, M mentors, F student features, F_m features of mentor m, G the sum of all F_m.
Dtype: that of the inputs.

    hint_BM = hint_losses(student_features_BF, mentor_features_BG, adapter_GF, mentor_of_G, width_M)
"""

import torch
from torch import Tensor


def hint_losses(
    student_features_BF: Tensor,
    mentor_features_BG: Tensor,
    adapter_GF: Tensor,
    mentor_of_G: Tensor,
    width_M: Tensor,
) -> Tensor:
    """Mean squared difference to each mentor, (B, M). Gradient to the student and the adapter.

    `mentor_of_G` (int64) says whose feature a column is, `width_M` how many each mentor has.
    """
    unit_BF = student_features_BF / _length(student_features_BF.square().sum(dim=1, keepdim=True))
    squares_BM = _sum_by_mentor(mentor_features_BG.detach().square(), mentor_of_G, len(width_M))
    unit_BG = mentor_features_BG.detach() / _length(squares_BM)[:, mentor_of_G]
    # arXiv 1412.6550, equation 3, with a mean over the features in place of 1/2 of the sum.
    apart_BG = (unit_BG - unit_BF @ adapter_GF.T).square()
    return _sum_by_mentor(apart_BG, mentor_of_G, len(width_M)) / width_M


def _length(squares: Tensor) -> Tensor:
    """The root; 1 for a row of zeros, which stays one and has a finite gradient."""
    return squares.masked_fill(squares == 0, 1.0).sqrt()


def _sum_by_mentor(values_BG: Tensor, mentor_of_G: Tensor, mentors: int) -> Tensor:
    """Columns summed by whose they are, (B, M): a product with a 0/1 matrix, in a fixed order."""
    member_GM = mentor_of_G.unsqueeze(1) == torch.arange(mentors, device=mentor_of_G.device)
    return values_BG @ member_GM.to(values_BG.dtype)
