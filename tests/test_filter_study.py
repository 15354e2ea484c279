"""The filter study: corruptions roll rows, controls gate as they say, tables add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.mentors import Mentor
from pipelines import filter_study
from pipelines.arms import ARMS, make_arm
from pipelines.corruption import CorruptedTargets, clean, specialists, wrong_mentors, wrong_rows
from pipelines.corruption import label_noise as noise
from pipelines.gates import oracle_gate, random_gate
from pipelines.study_runs import read_runs
from pipelines.study_tables import paired_differences, study_tables, verdict

LABELS = np.arange(2000) % 10
CLASSES = {"num_classes": 10, "num_mentors": 3}


def test_specialists_keep_disjoint_shares_of_the_classes() -> None:
    corruption = specialists(LABELS, **CLASSES, seed=1)
    kept_CM = np.stack(
        [(corruption.rolled_NM[label == LABELS] == 0).all(axis=0) for label in range(10)]
    )
    assert (kept_CM.sum(axis=1) == 1).all()  # one mentor knows each class
    assert (kept_CM.sum(axis=0) >= 3).all()
    for mentor in range(3):  # and errs by one offset elsewhere
        assert len(set(corruption.rolled_NM[:, mentor]) - {0}) == 1


@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_wrong_rows_are_independent_and_as_many_as_asked(share: float, seed: int) -> None:
    is_wrong_NM = wrong_rows(LABELS, **CLASSES, seed=seed, share=share).rolled_NM != 0
    assert is_wrong_NM.mean(axis=0) == pytest.approx([share] * 3, abs=0.06)
    both = (is_wrong_NM[:, 0] & is_wrong_NM[:, 1]).mean()
    assert both == pytest.approx(share**2, abs=0.06)


def test_wrong_mentors_join_and_label_noise_changes_labels_alone() -> None:
    joined = wrong_mentors(LABELS, **CLASSES, seed=0, count=4)
    assert joined.copied == (0, 1, 2, 0, 1, 2, 0)
    assert (joined.rolled_NM[:, :3] == 0).all()
    assert (joined.rolled_NM[:, 3:] % 10 != 0).all()
    noisy = noise(LABELS, **CLASSES, seed=0, share=0.4)
    assert (noisy.labels_N != LABELS).mean() == pytest.approx(0.4, abs=0.05)
    assert (noisy.rolled_NM == 0).all()
    assert set(noisy.labels_N) == set(range(10))


def test_a_corrupted_row_is_the_stored_one_rolled(
    digits: ImageDataset, digits_mentors: list[Mentor], tmp_path: Path
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "S", views=2, device="cpu"
    )
    stream = kdcache.TargetStream(store, device="cpu")
    shape = {"num_classes": 10, "num_mentors": 2, "seed": 3}
    corruption = wrong_rows(store.labels_N, **shape, share=0.5)
    index = store.index_N[[7, 3, 60]]
    source = CorruptedTargets(stream, corruption)
    with stream.view(1) as targets:
        stored_BMC = targets[index].numpy()
    with source.view(1) as targets:
        found_BMC = targets[index].numpy()
    for row, position in enumerate((7, 3, 60)):
        for mentor in range(2):
            rolled = int(corruption.rolled_NM[position, mentor])
            expected = np.roll(stored_BMC[row, mentor], rolled)
            np.testing.assert_array_equal(found_BMC[row, mentor], expected)
    with CorruptedTargets(stream, clean(store.labels_N, **shape)).view(1) as targets:
        np.testing.assert_array_equal(targets[index].numpy(), stored_BMC)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(10, (64,), generator=draw)
    student_BC = torch.randn(64, 10, generator=draw, requires_grad=True)
    mentors_BMC = 3 * torch.randn(64, 3, 10, generator=draw)
    return student_BC, labels_B, mentors_BMC


def test_a_random_gate_keeps_as_many_but_others() -> None:
    student_BC, labels_B, mentors_BMC = batch()
    loss = kdcache.ClassroomLoss()
    kept_BM = loss(student_BC, labels_B, mentors_BMC).active_BM
    draw = torch.Generator().manual_seed(0)
    active_BM = random_gate(loss, student_BC, labels_B, mentors_BMC, draw).active_BM
    assert torch.equal(active_BM.sum(0), kept_BM.sum(0))
    assert not torch.equal(active_BM, kept_BM)


def test_an_oracle_gate_follows_the_true_label_not_the_one_told() -> None:
    student_BC, true_B, mentors_BMC = batch()
    told_B = (true_B + 1) % 10
    out = oracle_gate(kdcache.ClassroomLoss(), student_BC, told_B, mentors_BMC, true_B)
    assert torch.equal(out.active_BM, mentors_BMC.argmax(-1) == true_B[:, None])
    assert float(out.mentor.detach()) == pytest.approx(
        float(out.term_BM[out.active_BM].sum()) / 64, rel=1e-5
    )


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_teaches(arm: str) -> None:
    student_BC, labels_B, mentors_BMC = batch()
    teach = make_arm(arm, num_mentors=3, seed=0)
    out = teach(student_BC, labels_B, None if arm == "ce" else mentors_BMC, labels_B)
    out.total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(student_BC.grad).all()  # type: ignore[arg-type]
    assert student_BC.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_an_average_at_total_weight_m_is_m_times_the_mentors_of_one_at_weight_1() -> None:
    student_BC, labels_B, mentors_BMC = batch()
    one, many = (
        make_arm(arm, num_mentors=3, seed=0)(student_BC, labels_B, mentors_BMC, labels_B)
        for arm in ("average-1", "average-m")
    )
    assert float(many.mentor.detach()) == pytest.approx(3 * float(one.mentor.detach()), rel=1e-5)
    assert float(many.task.detach()) == pytest.approx(float(one.task.detach()), rel=1e-6)


def test_gated_soft_weights_are_soft_weights_where_every_mentor_is_active() -> None:
    student_BC, labels_B, mentors_BMC = batch()
    sure_BMC = mentors_BMC.scatter(2, labels_B[:, None, None].expand(-1, 3, 1), 9.0)
    soft, gated = (
        make_arm(arm, num_mentors=3, seed=0)(student_BC, labels_B, sure_BMC, labels_B)
        for arm in ("soft", "soft-gated")
    )
    assert gated.active_BM.all()
    assert float(gated.total.detach()) == pytest.approx(float(soft.total.detach()), rel=1e-5)


def run(setting: str, arm: str, seed: int, top1: float, views: int = 2) -> dict[str, Any]:
    return {
        "setting": setting, "arm": arm, "seed": seed, "views": views, "top1": top1,
        "active": [0.5, 1.0], "seconds": 30.0,
    }  # fmt: skip


def test_differences_are_paired_by_seed() -> None:
    runs = [run("clean", "classroom", s, 30.0 + s) for s in (0, 1, 2)]
    runs += [run("clean", "soft", s, 20.0 + 2 * s) for s in (2, 1, 5)]
    assert paired_differences(runs, "clean", "classroom", "soft") == [9.0, 8.0]


@pytest.mark.parametrize(
    ("to_soft", "to_random", "expected"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 2.2], "holds"),
        ([1.0, 1.1, 0.9], [0.1, -0.1, 0.0], "open"),
        ([0.5, -0.4, 0.1], [2.0, 2.1, 2.2], "refuted: tie"),
        ([-3.0, -3.1, -2.9], [2.0, 2.1, 2.2], "refuted: worse"),
        ([1.0, 1.1], [2.0, 2.1], "few seeds"),
        ([1.0, 1.1, 1.2], [2.0], "few seeds"),
        ([1.0, 1.1, 1.2], [], "open"),
        ([0.1, -0.1, 0.0], [], "refuted: tie"),
    ],
)
def test_the_verdict(to_soft: list[float], to_random: list[float], expected: str) -> None:
    assert verdict(to_soft, to_random) == expected


def test_tables_of_three_seeds() -> None:
    runs = [
        run("clean", arm, seed, top1 + seed)
        for arm, top1 in (("soft", 20.0), ("classroom-t1", 25.0), ("random-gate-t1", 21.0))
        for seed in (0, 1, 2)
    ]
    text = "\n".join(study_tables([*runs, run("clean", "soft", 0, 18.0, views=1)], views=2))
    assert "26.00 ± 0.58 (3)" in text
    assert "5.00 ± 0.00 (3)" in text
    assert "| holds" in text
    assert "5 minutes" in text  # ten runs of half a minute
    assert "pooled over all cells: 1.00" in text


@pytest.mark.slow
def test_the_smoke_study(real_data: Path, tmp_path: Path) -> None:
    command = ["--smoke", "--out", str(tmp_path / "study"), "--device", "cpu"]
    command += [
        "--settings",
        "clean,wrong-rows-50",
        "--arms",
        "ce,soft,classroom-t1,random-gate-t1",
    ]
    first = CliRunner().invoke(filter_study.main, command)
    assert first.exit_code == 0, first.output
    assert "14/14 " in first.output
    assert "| wrong-rows-50 |" in first.output.replace("  ", "")
    runs = tmp_path / "study" / "runs.jsonl"
    lines = runs.read_text().splitlines()
    assert len(lines) == 14
    for line in map(json.loads, lines):
        assert 0 <= line["top1"] <= 100
        assert line["setting"] != "clean" or all(share > 0.3 for share in line["active"])

    # Killed while it wrote its last line: that run is made again, to the same accuracy, no other.
    runs.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = CliRunner().invoke(filter_study.main, command)
    assert again.exit_code == 0, again.output
    assert "1/1 " in again.output
    remade = list(read_runs(runs))
    assert [line["top1"] for line in remade] == [json.loads(line)["top1"] for line in lines]

    # Views of another seed: told before anything is trained.
    dataset = kdcache.open_dataset("cifar100", samples=400)
    other = kdcache.precompute_targets(
        dataset, ["r20", "r32"], store=tmp_path / "other", views=2, view_seed=1, device="cpu"
    )
    refused = CliRunner().invoke(
        filter_study.main, [*command, "--arms", "average-1", "--store", str(other.root)]
    )
    assert refused.exit_code == 2
    assert "holds runs of the views" in refused.output


def test_no_run_comes_twice() -> None:
    for part in ("core", "all", "views"):
        runs = list(filter_study.runs_of(part, filter_study.SMOKE, 0))
        assert len(set(runs)) == len(runs)


def test_wrong_names_are_told_the_right_ones(tmp_path: Path) -> None:
    for option in ("--arms", "--settings"):
        done = CliRunner().invoke(
            filter_study.main, ["--smoke", "--out", str(tmp_path), option, "x"]
        )
        assert done.exit_code == 2
        assert "'x' is none of" in done.output
    done = CliRunner().invoke(filter_study.main, ["--out", str(tmp_path), "--seeds", "a"])
    assert done.exit_code == 2


def test_the_published_tables_are_those_of_the_published_runs() -> None:
    docs = Path(filter_study.__file__).parents[1] / "docs"
    shown = CliRunner().invoke(filter_study.main, ["--show", "--out", str(docs / "study")])
    assert shown.exit_code == 0, shown.output
    text = (docs / "study.md").read_text()
    blocks = shown.output.strip().split("\n\n")
    assert len(blocks) == 11
    for block in blocks:
        assert block in text
