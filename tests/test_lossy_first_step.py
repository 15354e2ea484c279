"""What float16 may cost the first step: a bound on the loss that follows from the rows' bound."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import kdcache
from kdcache.classroom import ClassroomLoss
from kdcache.datasets import ImageDataset
from kdcache.encode import Float16
from kdcache.mentors import Mentor

TAU = 12.0


def largest_change(student_BC: Tensor, labels_B: Tensor, mentors_BMC: Tensor) -> Tensor:
    """How far ClassroomKD's loss may move when every log-probability moves within float16's bound.

    With e = the row's largest bound: l_m moves by e, so w_m stays within exp(+-2e), a_s / a_m
    within exp(+-e), and T_m within tau (exp(e) - 1). A log-softmax moves by at most twice what its
    arguments move: 2 e / T + 2 max|z| |1/T - 1/T'|. A KL of p and q whose logs move by dp and dq
    moves by at most (exp(dp) - 1) max|log p - log q| + exp(dp) (dp + dq). A mentor that may cross
    the filter counts with its whole term.
    """
    e_BM = torch.from_numpy(Float16().bound(mentors_BMC.float().numpy())).amax(-1)
    out = ClassroomLoss(tau=TAU)(student_BC, labels_B, mentors_BMC)
    lp_s_BC = student_BC.log_softmax(-1)
    l_s_B = -lp_s_BC.gather(1, labels_B[:, None])[:, 0]
    l_m_BM = -mentors_BMC.gather(2, labels_B[:, None, None].expand(-1, mentors_BMC.shape[1], 1))[
        ..., 0
    ]
    t_BM = out.temperature_BM
    shift_BM = TAU * (e_BM.exp() - 1)
    low_BM = (t_BM - shift_BM).clamp(min=1)
    inverse_BM = 1 / low_BM - 1 / (t_BM + shift_BM)
    dp_BM = 2 * e_BM / low_BM + 2 * mentors_BMC.abs().amax(-1) * inverse_BM
    dq_BM = 2 * lp_s_BC.abs().amax(-1)[:, None] * inverse_BM
    log_p = (mentors_BMC / t_BM[..., None]).log_softmax(-1)
    log_q = (lp_s_BC[:, None] / t_BM[..., None]).log_softmax(-1)
    kl_BM = (log_p.exp() * (log_p - log_q)).sum(-1)
    farthest_BM = (log_p - log_q).abs().amax(-1)
    dkl_BM = (dp_BM.exp() - 1) * farthest_BM + dp_BM.exp() * (dp_BM + dq_BM)
    term_BM = out.weight_BM * t_BM**2 * kl_BM
    largest_BM = out.weight_BM * (2 * e_BM).exp() * (t_BM + shift_BM) ** 2 * (kl_BM + dkl_BM)
    may_cross_BM = (l_m_BM - l_s_B[:, None]).abs() <= e_BM
    moved_BM = torch.where(
        may_cross_BM, largest_BM, torch.where(out.active_BM, largest_BM - term_BM, 0.0)
    )
    return moved_BM.sum(1).mean()


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_moves_no_further_than_the_rows_allow(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(64, 20, generator=generator, dtype=torch.float64)
    mentors = torch.randn(64, 3, 20, generator=generator, dtype=torch.float64) * scale
    labels = torch.randint(20, (64,), generator=generator)
    exact = mentors.log_softmax(-1).float()
    stored = torch.from_numpy(Float16().encode(exact.numpy()))
    loss = ClassroomLoss(tau=TAU)
    before, after = (
        loss(student, labels, rows.double()).total for rows in (exact, Float16().decode(stored))
    )
    assert before != after
    assert (before - after).abs() <= largest_change(student, labels, exact.double())


def test_from_a_float16_store_the_first_step_is_as_near_as_its_rows(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    batches = []
    for encoder in ("float32", "float16"):
        store = kdcache.precompute_targets(
            digits, digits_mentors, store=tmp_path / encoder, views=1, encoder=encoder
        )
        batches.append(next(iter(kdcache.ReplayLoader(digits, store, 64, seed=4))))
    exact, lossy = (batch.logits for batch in batches)
    assert exact is not None
    assert lossy is not None
    assert (np.abs((lossy - exact).numpy()) <= Float16().bound(exact.numpy())).all()
    student = kdcache.build_network("r8", 10, seed=4).eval()
    with torch.no_grad():
        logits = student(batches[0].images).double()
    labels = batches[0].labels
    losses = [
        ClassroomLoss(tau=TAU)(logits, labels, rows.double()).total for rows in (exact, lossy)
    ]
    assert (losses[0] - losses[1]).abs() <= largest_change(logits, labels, exact.double())
