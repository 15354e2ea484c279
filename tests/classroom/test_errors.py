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
    LossShapes,
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
    ({"weighting": "order"}, ["weighting", "'confidence' or 'rank'", "'order'"]),
    ({"weighting": "rank", "rank_scale": 0.0}, ["rank_scale", "> 0", "0.0"]),
    ({"rank_scale": 5.0}, ["rank_scale", 'weighting="rank"', "5.0"]),
    ({"teachers": (0,)}, ["teachers", 'weighting="rank"', "(0,)"]),
    ({"weighting": "rank", "teachers": (0, 0)}, ["teachers", "once", "(0, 0)"]),
    ({"weighting": "rank", "teachers": (-1,)}, ["teachers", "from 0", "(-1,)"]),
    ({"weighting": "rank", "teachers": "r110"}, ["teachers", "columns", "'r110'"]),
    (
        {"weighting": "rank", "teachers": (0,), "mentor_weight": "one"},
        ["teachers", "mentor_weight", "(0,)", "'one'"],
    ),
    (
        {"weighting": "rank", "granularity": "batch", "round_shares": 2},
        ["round_shares", "weighting", "'rank'"],
    ),
    ({"standardise": 1}, ["standardise", "true or false", "1"]),
    ({"gate": None}, ["gate", "'hard' or 'soft' or 'off'", "None"]),
    ({"gate_margin": 1.5}, ["gate_margin", "<= 1", "1.5"]),
    ({"gate_margin": 0.1, "gate": "off"}, ["gate_margin", "hard", "0.1", "'off'"]),
    ({"mentor_weight": "two"}, ["mentor_weight", "'one'", "'two'"]),
    ({"task_weight": 1}, ["task_weight", "'one'", "1"]),
    ({"gate": "soft", "mentor_weight": "one"}, ["soft", "mentor_weight", "'one'", "off"]),
    ({"temperature": 4.0}, ["temperature", "'fixed'", "4.0"]),
    ({"temperature": "fixed", "fixed_temperature": 0.0}, ["fixed_temperature", "> 0", "0.0"]),
    ({"fixed_temperature": 4.0}, ["fixed_temperature", "'gap'", "4.0"]),
    ({"gap": "log"}, ["gap", "'ratio' or 'difference' or 'absolute'", "'log'"]),
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
    method: type[AverageLoss | KDLoss], switches: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(switches))):
        method(**switches)


@pytest.mark.parametrize(
    ("method", "switches", "words"),
    [
        ("soft", {"temperature": 0.0}, ["temperature", "> 0", "0.0"]),
        ("ca-mkd", {"divide_by_k": "yes"}, ["divide_by_k", "true or false", "'yes'"]),
        ("ebkd", {"kd_weight": -1.0}, ["kd_weight", ">= 0", "-1.0"]),
        ("dkd", {"warm_up": 2.5}, ["warm_up", "whole number >= 0", "2.5"]),
        ("dkd", {"warm_up": -1}, ["warm_up", "whole number >= 0", "-1"]),
        ("dkd", {"beta": "8"}, ["beta", "number", "'8'"]),
        ("dist", {"gamma": -1.0}, ["gamma", ">= 0", "-1.0"]),
        ("logit-mse", {"ce_weight": float("nan")}, ["ce_weight", "finite", "nan"]),
        ("kd", {"standardise": "no"}, ["standardise", "true or false", "'no'"]),
    ],
    ids=str,
)
def test_bad_switches_of_every_method(
    method: str, switches: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        build_loss(method, **switches)
    for word in [repr(method), *words]:
        assert word in str(error.value)


def test_a_teacher_that_is_not_there_is_refused() -> None:
    loss = ClassroomLoss(weighting="rank", teachers=(0, 3))
    with pytest.raises(ValueError, match=r"teachers names mentor 3, but there are 3.*0 to 2"):
        loss(*make_batch(M=3))
    loss(*make_batch(M=4))


def test_teachers_of_a_config_file_are_a_list() -> None:
    loss = build_loss("classroom", weighting="rank", teachers=[2, 0])
    assert loss == ClassroomLoss(weighting="rank", teachers=(2, 0))
    assert hash(loss) == hash(ClassroomLoss(weighting="rank", teachers=(2, 0)))


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Learns:
    """Switches of a loss that must know its size; it keeps what it was asked for."""

    rate: float = 1.0

    def for_shapes(self, shapes: LossShapes, seed: int) -> tuple[float, LossShapes, int]:
        return self.rate, shapes, seed


def test_a_loss_that_learns_is_made_for_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "learns", _Learns)
    shapes = LossShapes(num_mentors=2, num_classes=10, student_features=64)
    loss: object = build_loss("learns", shapes=shapes, seed=3, rate=0.5)
    assert loss == (0.5, shapes, 3)
    with pytest.raises(UsageError, match=r"'learns'.*shapes=LossShapes.*got None"):
        build_loss("learns")
    assert build_loss("kd", shapes=shapes, seed=3) == KDLoss()  # others have no use for them


def test_an_unknown_method_is_told_which_there_are() -> None:
    with pytest.raises(UsageError) as error:
        build_loss("nothing-like-it")
    for method in METHODS:
        assert method in str(error.value)


def test_build_loss() -> None:
    assert build_loss("classroom", tau=4.0, gate="off") == ClassroomLoss(tau=4.0, gate="off")
    assert build_loss("kd") == KDLoss()
    with pytest.raises(UsageError, match=r"unknown method 'clasroom'\. Did you mean classroom"):
        build_loss("clasroom")
    with pytest.raises(
        UsageError, match=r"'kd'.*'tau'.*ce_weight, kd_weight, standardise, temperature"
    ):
        build_loss("kd", tau=4.0)
    with pytest.raises(UsageError, match=r"'average'.*Did you mean temperature"):
        build_loss("average", temprature=4.0)
    with pytest.raises(UsageError, match=r"'ce' has no switches, got tau=4\.0"):
        build_loss("ce", tau=4.0)
