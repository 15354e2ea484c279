"""How far the student is from each mentor at a temperature, without the factor T^2.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531),
section 2: both sides are softened by the same temperature and the student is pulled to the mentor.

    KL_im = sum_c p_c * (log p_c - log q_c),   p = softmax(z_m / T_im),   q = softmax(z_s / T_im)

Its gradient in the student's logits is `(q - p) / T`, of length at most `sqrt(2) / T`; with the
factor T^2, which the caller applies, a mentor's pull is bounded by `sqrt(2) * T`.

Shapes: B batch, M mentors, C classes. Dtype: that of the inputs, which must agree (float32 or
float64; the callers see to it). The price is two (B, M, C) tensors kept for the backward pass.

    kl_BM = tempered_kl(mentor_logits_BMC, seen.mentors_BMC, temperature_BM)
"""

import torch
from torch import Tensor


def tempered_kl(
    mentor_logits_BMC: Tensor, student_logits_BMC: Tensor, temperature_BM: Tensor
) -> Tensor:
    """KL(mentor || student) per sample and mentor, (B, M), >= 0 up to rounding.

    `student_logits_BMC` are the student's logits as each mentor's term sees them, and alone have a
    gradient. `temperature_BM` may be (1, M), (B, 1) or (1, 1). Logits and log-probabilities are
    the same thing here: a row's constant drops out.
    """
    temperature_BM1 = temperature_BM.detach().unsqueeze(-1)
    log_p_BMC = torch.log_softmax(mentor_logits_BMC.detach() / temperature_BM1, dim=-1)
    log_q_BMC = torch.log_softmax(student_logits_BMC / temperature_BM1, dim=-1)
    # A class that a mentor excludes (-inf) has p = 0: 0 * (-inf - log q) would be NaN, not 0.
    floor = torch.finfo(log_p_BMC.dtype).min
    # Hinton et al., section 2, as the difference of logs: exactly 0 for equal rows.
    return (log_p_BMC.exp() * (log_p_BMC.clamp(min=floor) - log_q_BMC)).sum(dim=-1)
