"""An epoch's records: equal to a plain loop over its samples, term by term and class by class."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.classroom import (
    METHODS,
    ClassroomLoss,
    CrossEntropyLoss,
    build_loss,
    has_filter,
)
from kdcache.errors import CheckpointError, Stopped
from kdcache.train.run_folder import RunFolder
from kdcache.train.tally import Tally, filter_warnings
from tests.train.comparing import timeless
from tests.train.conftest import Run

CPU = torch.device("cpu")
NAMES = ("ann", "bob", "cyd")
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # student_logits_BC, labels_B, mentors_BMC


def batches(seed: int, sizes: list[int], classes: int, mentors: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            3 * torch.randn(size, classes, generator=draw, dtype=torch.float64),
            torch.randint(classes, (size,), generator=draw),
            3 * torch.randn(size, mentors, classes, generator=draw, dtype=torch.float64),
        )
        for size in sizes
    ]


def tallied(loss: Any, given: list[Batch], mentors: int, **options: Any) -> dict[str, Any]:
    scale = options.pop("scale", None)
    tally = Tally(NAMES[:mentors], CPU, **options)
    for student_BC, labels_B, mentors_BMC in given:
        out = loss(student_BC.clone().requires_grad_(), labels_B, mentors_BMC)
        (out.total * (1 if scale is None else scale)).backward()
        tally.add(out, labels_B, scale)
    return tally.record()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    classes=st.integers(2, 5),
    mentors=st.integers(1, 3),
    tau=st.sampled_from([0.0, 3.0, 12.0]),
)
def test_it_is_what_a_plain_loop_over_samples_finds(
    seed: int, sizes: list[int], classes: int, mentors: int, tau: float
) -> None:
    """Each sample goes through the loss alone; each term is differentiated alone."""
    loss = ClassroomLoss(tau=tau)
    given = batches(seed, sizes, classes, mentors)
    found = tallied(loss, given, mentors, num_classes=classes)["classroom"]
    samples, untaught = 0, 0
    active = [0.0] * mentors
    weight = [0.0] * mentors
    terms, pulls = [0.0] * (1 + mentors), [0.0] * (1 + mentors)
    rows = [0] * classes
    active_of = [[0.0] * classes for _ in range(mentors)]
    weight_of = [[0.0] * classes for _ in range(mentors)]
    for student_BC, labels_B, mentors_BMC in given:
        for i in range(len(labels_B)):
            one = slice(i, i + 1)
            label = int(labels_B[i])
            logits_1C = student_BC[one].clone().requires_grad_()
            out = loss(logits_1C, labels_B[one], mentors_BMC[one])
            samples += 1
            rows[label] += 1
            untaught += not any(out.active_BM[0].tolist())
            for m in range(mentors):
                if out.active_BM[0, m]:
                    active[m] += 1
                    weight[m] += out.weight_BM[0, m].item()
                    active_of[m][label] += 1
                    weight_of[m][label] += out.weight_BM[0, m].item()
            for slot in range(1 + mentors):
                terms[slot] += out.term_BM[0, slot - 1].item() if slot else out.task.item()
                pulls[slot] += own_pull(
                    loss, student_BC[one], labels_B[one], mentors_BMC[one], slot
                )
    assert found["untaught"] == pytest.approx(untaught / samples)
    assert found["task"]["loss_share"] == pytest.approx(terms[0] / sum(terms), abs=1e-9)
    assert found["task"]["gradient_share"] == pytest.approx(pulls[0] / sum(pulls), abs=1e-6)
    assert found["per_class"]["samples"] == rows
    for m, name in enumerate(NAMES[:mentors]):
        assert found["active"][name] == pytest.approx(active[m] / samples)
        expected = weight[m] / active[m] if active[m] else 0.0
        assert found["weight"][name] == pytest.approx(expected)
        assert found["loss_share"][name] == pytest.approx(terms[1 + m] / sum(terms), abs=1e-9)
        assert found["gradient_share"][name] == pytest.approx(pulls[1 + m] / sum(pulls), abs=1e-6)
        for c in range(classes):
            share, mean = (found["per_class"][key][name][c] for key in ("active", "weight"))
            assert share == (pytest.approx(active_of[m][c] / rows[c]) if rows[c] else None)
            taught = active_of[m][c]
            assert mean == (pytest.approx(weight_of[m][c] / taught) if taught else None)


def own_pull(
    loss: ClassroomLoss, student_1C: torch.Tensor, label_1: torch.Tensor,
    mentors_1MC: torch.Tensor, slot: int,
) -> float:  # fmt: skip
    """Norm of one term's gradient at the logits, by central differences (to about 1e-8)."""
    step = 1e-6

    def term(logits_1C: torch.Tensor) -> float:
        """The term with what carries no gradient held where it was."""
        held = loss(student_1C, label_1, mentors_1MC)
        if slot == 0:
            confidence = torch.softmax(student_1C, 1)[0, label_1].item()
            return -confidence * torch.log_softmax(logits_1C, 1)[0, label_1].item()
        m = slot - 1
        if not held.active_BM[0, m]:
            return 0.0
        T = held.temperature_BM[0, m].item()
        log_p = torch.log_softmax(mentors_1MC[0, m] / T, 0)
        log_q = torch.log_softmax(logits_1C[0] / T, 0)
        divergence = (log_p.exp() * (log_p - log_q)).sum().item()
        return held.weight_BM[0, m].item() * T * T * divergence

    squares = 0.0
    for c in range(student_1C.shape[1]):
        moved = torch.zeros_like(student_1C)
        moved[0, c] = step
        squares += ((term(student_1C + moved) - term(student_1C - moved)) / (2 * step)) ** 2
    return math.sqrt(squares)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ce", "amtml"}))
def test_shares_are_of_the_whole_for_every_method(method: str) -> None:
    mentors = 1 if build_loss(method).needs.most_mentors == 1 else 3
    found = tallied(build_loss(method), batches(4, [8, 8, 5], 6, mentors), mentors)["classroom"]
    for share in ("loss_share", "gradient_share"):
        whole = found["task"][share] + sum(found[share].values())
        assert whole == pytest.approx(1, rel=1e-6), share
    assert all(0 <= value <= 1 for value in found["gradient_share"].values())


def test_what_a_gradient_scaler_multiplied_by_changes_nothing() -> None:
    given = batches(1, [8, 8], 5, 2)
    plain = tallied(ClassroomLoss(), given, 2)
    scaled = tallied(ClassroomLoss(), given, 2, scale=torch.tensor(2.0**16))
    for key in ("gradient_share", "loss_share"):
        assert plain["classroom"][key] == pytest.approx(scaled["classroom"][key], rel=1e-9)


def test_without_mentors_there_is_no_classroom() -> None:
    tally = Tally((), CPU, num_classes=3)
    out = CrossEntropyLoss()(torch.zeros(4, 3).requires_grad_(), torch.tensor([0, 1, 2, 0]))
    out.total.backward()  # type: ignore[no-untyped-call]
    tally.add(out, torch.tensor([0, 1, 2, 0]))
    record = tally.record()
    assert record == pytest.approx(
        {"train_loss": math.log(3), "task_loss": math.log(3), "mentor_loss": 0.0}
    )


def test_only_a_hard_gate_is_a_filter() -> None:
    assert has_filter("classroom")
    assert has_filter("classroom", granularity="batch")
    for gate in ("soft", "off"):
        assert not has_filter("classroom", gate=gate)
    for method in set(METHODS) - {"classroom"}:
        assert not has_filter(method), method


def test_what_the_warnings_say() -> None:
    record = {"classroom": {"active": {"ann": 0.99, "bob": 0.2}, "untaught": 0.51}}
    warnings = filter_warnings(record)
    assert "ann 99.0%" in warnings["filter idle"]
    assert "bob" not in warnings["filter idle"]
    assert "51.0%" in warnings["student unsupervised"]
    assert filter_warnings({"classroom": {"active": {"ann": 0.98}, "untaught": 0.5}}) == {}
    assert filter_warnings({"train_loss": 1.0}) == {}


def test_records_by_class_survive_a_stop(train: Run, tmp_path: Any) -> None:
    options: dict[str, Any] = {"per_class": True, "epochs": 2}
    whole = list(train("whole", **options))
    polls = iter(range(8))  # stops in the second epoch: its sums go on from the checkpoint
    with pytest.raises(Stopped):
        list(train("stopped", **options, should_stop=lambda: next(polls, None) is None))
    list(train("stopped", **options))
    again = RunFolder(tmp_path / "stopped").records()
    assert timeless(again) == timeless(whole)
    for record in again:
        by_class = record["classroom"]["per_class"]
        assert sum(by_class["samples"]) == 96  # six steps of 16
        for name, share in record["classroom"]["active"].items():
            taught = sum(
                (part or 0) * n
                for part, n in zip(by_class["active"][name], by_class["samples"], strict=True)
            )
            assert taught == pytest.approx(share * 96)


def test_a_checkpoint_with_other_sums_is_refused(train: Run, tmp_path: Any) -> None:
    polls = iter(range(2))
    with pytest.raises(Stopped):
        list(train("old", should_stop=lambda: next(polls, None) is None))
    folder = RunFolder(tmp_path / "old")
    state = folder.load_checkpoint()
    assert isinstance(state, dict)
    state["tally"] = state["tally"][:-3]  # as before the shares were counted
    folder.save_checkpoint(state)
    with pytest.raises(CheckpointError, match=r"version of kdcache \(state.tally is a float64"):
        next(train("old"))
