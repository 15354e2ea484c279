"""The study's arms: ways of teaching one student, with nothing tuned for any of them.

The baselines' task term weighs 1, as does the sum of their mentors (M for `average-m`: the most
that ClassroomKD's weights can add up to), at their papers' T = 4. `-t1`: every temperature is 1
(the paper's "no mentoring"), so that arms differ in gate and weight alone.

    arm                gate                    mentor's weight      task weight   temperature
    ce                 -                       -                    1             -
    average-1          none                    1/M                  1             4
    average-m          none                    1                    1             4
    soft               none                    a_m / sum a          1             4
    soft-gated         knowledge filter        a_m / sum of active  1             4
    ca-mkd             none                    1 - loss share       1             4
    classroom          knowledge filter        w_m                  a_s           1 + 12 gap
    classroom-t1       knowledge filter        w_m                  a_s           1
    batch, batch-t1    as these two, one decision for a whole batch
    gate-only-t1       knowledge filter        1                    a_s           1
    weight-only-t1     none                    w_m                  a_s           1
    plain-t1           none                    1                    a_s           1
    random-gate-t1     the filter's, shuffled  w_m                  a_s           1
    oracle-gate-t1     mentor is right         w_m                  a_s           1
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kdcache
from kdcache import LossOutput
from pipelines.gates import oracle_gate, random_gate

Teach = Callable[[Tensor, Tensor, Any, Tensor], LossOutput]
"""(student logits, labels as told, mentor logits or None, true labels) -> loss."""

Loss = Callable[[Tensor, Tensor, Any], LossOutput]

FIXED: dict[str, Any] = {"temperature": "fixed", "fixed_temperature": 1.0}


def _plain(loss: Loss) -> Teach:
    return lambda student, told, mentors, true: loss(student, told, mentors)


def _oracle(loss: kdcache.ClassroomLoss) -> Teach:
    return lambda student, told, mentors, true: oracle_gate(loss, student, told, mentors, true)


def _random(loss: kdcache.ClassroomLoss, seed: int) -> Teach:
    draw = torch.Generator().manual_seed(seed)
    return lambda student, told, mentors, true: random_gate(loss, student, told, mentors, draw)


ARMS: dict[str, Callable[[int, int], Teach]] = {
    "ce": lambda num_mentors, seed: _plain(kdcache.CrossEntropyLoss()),
    "average-1": lambda num_mentors, seed: _plain(
        kdcache.AverageLoss(ce_weight=1.0, kd_weight=1.0)
    ),
    "average-m": lambda num_mentors, seed: _plain(
        kdcache.AverageLoss(ce_weight=1.0, kd_weight=float(num_mentors))
    ),
    "soft": lambda num_mentors, seed: _plain(kdcache.SoftLoss(ce_weight=1.0, kd_weight=1.0)),
    "soft-gated": lambda num_mentors, seed: _plain(
        kdcache.ClassroomLoss(
            temperature="fixed",
            fixed_temperature=4.0,
            task_weight="one",
            kd_scale="per-active-weight",
        )
    ),
    "ca-mkd": lambda num_mentors, seed: _plain(kdcache.CAMKDLoss(ce_weight=1.0, kd_weight=1.0)),
    "classroom": lambda num_mentors, seed: _plain(kdcache.ClassroomLoss()),
    "classroom-t1": lambda num_mentors, seed: _plain(kdcache.ClassroomLoss(**FIXED)),
    "batch": lambda num_mentors, seed: _plain(kdcache.ClassroomLoss(granularity="batch")),
    "batch-t1": lambda num_mentors, seed: _plain(
        kdcache.ClassroomLoss(granularity="batch", **FIXED)
    ),
    "gate-only-t1": lambda num_mentors, seed: _plain(
        kdcache.ClassroomLoss(mentor_weight="one", **FIXED)
    ),
    "weight-only-t1": lambda num_mentors, seed: _plain(kdcache.ClassroomLoss(gate="soft", **FIXED)),
    "plain-t1": lambda num_mentors, seed: _plain(
        kdcache.ClassroomLoss(gate="off", mentor_weight="one", **FIXED)
    ),
    "random-gate-t1": lambda num_mentors, seed: _random(kdcache.ClassroomLoss(**FIXED), seed),
    "oracle-gate-t1": lambda num_mentors, seed: _oracle(kdcache.ClassroomLoss(**FIXED)),
}


def make_arm(arm: str, *, num_mentors: int, seed: int) -> Teach:
    """How this arm teaches `num_mentors` mentors' student."""
    return ARMS[arm](num_mentors, seed)
