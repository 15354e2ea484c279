"""AMTML-KD's mentor weights: learned, and another for every sample.

Liu et al., "Adaptive Multi-Teacher Multi-level Knowledge Distillation"
(https://arxiv.org/abs/2103.04062), section 3.2 (adaptive high-level knowledge), and the numerics of
the authors' notebooks:

    alpha_im = (beta_i * theta_m) W                beta_i: the student's pooled features
    mu_i     = softmax_m(alpha_i)
    q_i      = sum_m mu_im * softmax(z_m / tau)    the integrated soft target

`theta` and `W` start as N(0, 1). W must differ from 0: at W = 0 every mentor weighs the same and
theta has no gradient. The authors' regulariser pulls there.

Shapes: B batch, M mentors, C classes, F student features. Dtype: that of the inputs.

    mu_BM = instance_weights(student_features_BF, theta_MF, W_F1)
    p_BMC = softened(mentor_logits_BMC, temperature=5.0)
    kl_BM = mixture_kl(mu_BM, p_BMC, log_s_BMC)    # the sum over m is KL(q || s) of each sample
"""

import torch
from torch import Tensor


def instance_weights(student_features_BF: Tensor, theta_MF: Tensor, W_F1: Tensor) -> Tensor:
    """mu, (B, M): each sample's mentor weights, which sum to 1. Gradient to all three."""
    # arXiv 2103.04062, section 3.2: alpha_im = (beta_i * theta_m) W, summed without a matrix
    # product, which autocast and TF32 would round.
    alpha_BM = (student_features_BF.unsqueeze(1) * (theta_MF * W_F1.squeeze(1))).sum(dim=2)
    return torch.softmax(alpha_BM, dim=1)


def softened(mentor_logits_BMC: Tensor, temperature: float) -> Tensor:
    """softmax(z_m / tau), (B, M, C), without a gradient: mentors are frozen."""
    return torch.softmax(mentor_logits_BMC.detach() / temperature, dim=-1)


def integrated_target(mu_BM: Tensor, p_BMC: Tensor) -> Tensor:
    """q, (B, C), whose gradient reaches mu."""
    return (mu_BM.unsqueeze(2) * p_BMC).sum(dim=1)


def mixture_kl(mu_BM: Tensor, p_BMC: Tensor, log_s_BMC: Tensor) -> Tensor:
    """What each mentor adds to KL(q || s), (B, M); a sample's sum is its KL.

    `log_s_BMC` is the student's log-softmax once for every mentor. KL is linear in q beside
    `log q`, so it splits exactly:

        KL(q || s) = sum_m mu_m * sum_c p_mc * (log q_c - log s_c)

    A mentor's part has the gradient `mu_m * (s - p_m)` in `z_s / tau` and is negative where s is
    nearer to p_m than q is. The gradient reaches mu as well: q is not detached.
    """
    # d/dmu of the log alone is sum_c q_c * d(log q_c) = d(sum_c q_c) = 0, so the log is detached:
    # the gradient is the same, and never inf * 0 where q underflows.
    q_BC = integrated_target(mu_BM.detach(), p_BMC)
    log_q_B1C = q_BC.clamp(min=torch.finfo(q_BC.dtype).tiny).log().unsqueeze(1)
    return mu_BM * (p_BMC * (log_q_B1C - log_s_BMC)).sum(dim=-1)


def squared_size(theta_MF: Tensor, W_F1: Tensor) -> Tensor:
    """||theta_m||^2 + ||W||^2 / M, (M,): each mentor's share of `||W||^2 + sum_m ||theta_m||^2`."""
    return theta_MF.square().sum(dim=1) + W_F1.square().sum() / len(theta_MF)
