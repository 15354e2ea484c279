"""Wrong switches, shapes and names: each error says argument, rule and received value."""

import dataclasses
from typing import Any

import pytest
import torch

from kdcache.classroom import (
    METHODS,
    AverageLoss,
    ClassroomLoss,
    CrossEntropyLoss,
    KDLoss,
    MentorLoss,
    build_loss,
)
from kdcache.errors import UsageError
from tests.classroom.cases import make_batch

BAD_SWITCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({"tau": -1.0}, ["tau", ">= 0", "-1.0"]),
    ({"tau": float("nan")}, ["tau", "finite", "nan"]),
    ({"tau": "12"}, ["tau", "number", "'12'"]),
    ({"tau": True}, ["tau", "number", "True"]),
    ({"granularity": "epoch"}, ["granularity", "'sample' or 'batch'", "'epoch'"]),
    ({"weighting": "rank"}, ["weighting", "'confidence'", "'rank'"]),
    ({"gate": None}, ["gate", "'hard' or 'soft' or 'off'", "None"]),
    ({"gate_margin": 1.5}, ["gate_margin", "<= 1", "1.5"]),
    ({"gate_margin": 0.1, "gate": "off"}, ["gate_margin", "hard", "0.1", "'off'"]),
    ({"mentor_weight": "two"}, ["mentor_weight", "'one'", "'two'"]),
    ({"task_weight": 1}, ["task_weight", "'one'", "1"]),
    ({"gate": "soft", "mentor_weight": "one"}, ["soft", "mentor_weight", "'one'", "off"]),
    ({"temperature": 4.0}, ["temperature", "'fixed'", "4.0"]),
    ({"temperature": "fixed", "fixed_temperature": 0.0}, ["fixed_temperature", "> 0", "0.0"]),
    ({"fixed_temperature": 4.0}, ["fixed_temperature", "'gap'", "4.0"]),
    ({"gap": "log"}, ["gap", "'ratio' or 'difference'", "'log'"]),
    ({"t_max": 0.5}, ["t_max", ">= 1", "0.5"]),
    ({"kd_scale": "mean"}, ["kd_scale", "'per-active-weight'", "number", "'mean'"]),
    ({"kd_scale": -1.0}, ["kd_scale", ">= 0", "-1.0"]),
    ({"round_shares": 2}, ["round_shares", "batch", "'sample'", "2"]),
    ({"round_shares": 0, "granularity": "batch"}, ["round_shares", "1 to 6", "0"]),
    ({"round_shares": 2.0, "granularity": "batch"}, ["round_shares", "int", "2.0"]),
]


@pytest.mark.parametrize(("switches", "words"), BAD_SWITCHES, ids=str)
def test_bad_switches_are_refused(switches: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        ClassroomLoss(**switches)
    for word in words:
        assert word in str(error.value)
    with pytest.raises(UsageError, match="method 'classroom'"):
        build_loss("classroom", **switches)


@pytest.mark.parametrize("method", [AverageLoss, KDLoss])
@pytest.mark.parametrize(
    "switches", [{"temperature": 0}, {"ce_weight": -0.1}, {"kd_weight": float("inf")}]
)
def test_bad_switches_of_the_baselines(
    method: type[AverageLoss | KDLoss], switches: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=next(iter(switches))):
        method(**switches)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_losses_are_frozen_and_keyword_only(method: str) -> None:
    loss = METHODS[method]()
    assert METHODS[method](**dataclasses.asdict(loss)) == loss
    if dataclasses.fields(loss):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loss, dataclasses.fields(loss)[0].name, 1.0)
        with pytest.raises(TypeError):
            METHODS[method](4.0)


LOSSES: list[MentorLoss] = [ClassroomLoss(), AverageLoss(), KDLoss(), CrossEntropyLoss()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_shapes_that_do_not_fit_are_refused(loss: MentorLoss) -> None:
    student, labels, mentors = make_batch(M=1, dtype=torch.float32)
    bad = [
        (student, labels, mentors[:, :, :-1], r"\(5, 1, 3\).*\(5, 4\)"),
        (student, labels, mentors[:-1], r"\(4, 1, 4\).*\(5, 4\)"),
        (student, labels, mentors[:, 0], r"\(5, 4\).*\(5, 4\)"),
        (student, labels, mentors[:, :0], r"\(5, 0, 4\).*\(5, 4\)"),
        (student, labels[:-1], mentors, r"\(5, 4\).*\(4,\)"),
        (student, labels[:, None], mentors, r"\(5, 4\).*\(5, 1\)"),
        (student[0], labels, mentors, r"\(4,\).*\(5,\)"),
        (student[:0], labels[:0], mentors[:0], r"\(0, 4\).*\(0,\)"),
        (student.long(), labels, mentors, "student logits.*int64"),
        (student, labels.float(), mentors, "labels.*float32"),
        (student, labels, mentors.byte(), "mentor logits.*uint8"),
        (student, labels.to("meta"), mentors, "labels.*cpu.*meta"),
        (student, labels, mentors.to("meta"), "mentor logits.*cpu.*meta"),
    ]
    for student_logits_BC, labels_B, mentor_logits_BMC, message in bad:
        with pytest.raises(ValueError, match=message):
            loss(student_logits_BC, labels_B, mentor_logits_BMC)


@pytest.mark.parametrize("loss", LOSSES[:-1], ids=lambda loss: type(loss).__name__)
def test_only_ce_needs_no_mentor(loss: MentorLoss) -> None:
    student, labels, _ = make_batch()
    with pytest.raises(ValueError, match="got None"):
        loss(student, labels, None)
    out = CrossEntropyLoss()(student, labels)
    assert out.active_BM.shape == out.weight_BM.shape == out.temperature_BM.shape == (5, 0)
    assert out.mentor == 0


def test_kd_of_several_mentors_points_to_average() -> None:
    with pytest.raises(ValueError, match=r"exactly one mentor.*got 3.*'average'"):
        KDLoss()(*make_batch(M=3))


def test_a_label_out_of_range_is_not_ignored() -> None:
    """torch's own cross entropy skips -100 without a word."""
    batch = make_batch()
    batch.labels_B[0] = -100
    with pytest.raises((RuntimeError, IndexError)):
        CrossEntropyLoss()(*batch)


def test_build_loss() -> None:
    assert build_loss("classroom", tau=4.0, gate="off") == ClassroomLoss(tau=4.0, gate="off")
    assert build_loss("kd") == KDLoss()
    with pytest.raises(UsageError, match=r"unknown method 'clasroom'\. Did you mean classroom"):
        build_loss("clasroom")
    with pytest.raises(UsageError, match=r"'kd'.*'tau'.*ce_weight, kd_weight, temperature"):
        build_loss("kd", tau=4.0)
    with pytest.raises(UsageError, match=r"'average'.*Did you mean temperature"):
        build_loss("average", temprature=4.0)
    with pytest.raises(UsageError, match=r"'ce' has no switches, got tau=4\.0"):
        build_loss("ce", tau=4.0)
