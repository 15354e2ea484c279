"""`--encoder auto`, `residual`, `coarse`: chosen and fitted once, kept from then on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import kdcache
from kdcache.calibration import AUTO, calibrate
from kdcache.cli import main
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import ENCODERS, FITTED
from kdcache.encode.logits import mean_divergences
from kdcache.errors import RunFailed, StoreMismatch
from kdcache.inspection import inspect_store
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.precompute import PrecomputeJob
from kdcache.store import open_store
from kdcache.verification import verify

CPU = torch.device("cpu")
CHOICES = [*FITTED, AUTO]


pytestmark = pytest.mark.usefixtures("small_blocks")


def documents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.json")}


def count_fits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The mentors of each calibration from now on."""
    seen: list[list[str]] = []

    def counted(pool: Any, names: Any, *rest: Any) -> Any:
        seen.append(list(names))
        return calibrate(pool, names, *rest)

    monkeypatch.setattr("kdcache.precompute.calibrate", counted)
    return seen


def stop_after(polls: int) -> Callable[[], bool]:
    left = iter(range(polls))
    return lambda: next(left, None) is None


# Chosen once


@pytest.mark.parametrize("encoder", CHOICES)
def test_resuming_keeps_what_was_chosen(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    encoder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "s"
    job = PrecomputeJob(digits, digits_mentors, store=root, views=2, encoder=encoder)
    assert set(job.calibrations) == {"r14", "r8"}
    assert job.run(should_stop=stop_after(3)).stopped
    before = documents(root)
    fits = count_fits(monkeypatch)
    for asked in (encoder, None):
        again = PrecomputeJob(digits, digits_mentors, store=root, views=2, encoder=asked)
        assert not again.calibrations
        assert again.plan.reused["r8"] > 0
    again.run()
    assert fits == []
    after = documents(root)
    kept = [name for name in before if "commits" not in name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    whole = PrecomputeJob(digits, digits_mentors, store=tmp_path / "t", views=2, encoder=encoder)
    whole.run()
    one, other = open_store(root), open_store(tmp_path / "t")
    for view in (0, 1):
        assert np.array_equal(one.targets(view, one.index_N), other.targets(view, other.index_N))
    assert one.mentor("r8").identity == other.mentor("r8").identity  # fitted twice, and alike


def test_more_views_and_mentors_join(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "s"
    first = kdcache.precompute_targets(
        digits, digits_mentors[:1], store=root, views=1, encoder="residual"
    )
    fits = count_fits(monkeypatch)
    more = kdcache.precompute_targets(digits, digits_mentors[:1], store=root, views=3)
    assert fits == []
    assert more.mentor("r14").identity == first.mentor("r14").identity
    both = kdcache.precompute_targets(digits, digits_mentors, store=root)  # as the store has them
    assert fits == [["r8"]]
    assert both.usable_views(["r14", "r8"]) == [0, 1, 2]
    tables = [both.mentor(name).encoder.describe()["table"] for name in ("r14", "r8")]
    assert tables[0] != tables[1]
    assert verify(root).ok


def test_auto_keeps_what_a_store_has(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    root = tmp_path / "s"
    kdcache.precompute_targets(digits, digits_mentors[:1], store=root, views=1, encoder="sqrt8")
    store = kdcache.precompute_targets(digits, digits_mentors, store=root, encoder=AUTO)
    assert store.mentor("r14").encoder.name == "sqrt8"
    assert store.mentor("r8").encoder.name in FITTED
    calibrations = [store.mentor(name).array.calibration.exists() for name in ("r14", "r8")]
    assert calibrations == [False, True]


@pytest.mark.parametrize("asked", ["coarse", "sqrt8", "float16"])
def test_another_encoder_is_refused_and_changes_nothing(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    asked: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "s"
    kdcache.precompute_targets(digits, digits_mentors[:1], store=root, views=1, encoder="residual")
    before = documents(root)
    fits = count_fits(monkeypatch)
    with pytest.raises(StoreMismatch, match=rf"encoder +residual +{asked}"):
        PrecomputeJob(digits, digits_mentors[:1], store=root, encoder=asked)
    assert fits == []
    assert documents(root) == before


def test_auto_takes_the_smallest_that_holds(
    digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    pool = MentorPool(digits_mentors, device=CPU, run_shape=RunShape(batch=64))
    recipe = kdcache.views.make_recipe("crop-flip", **digits.view_parameters)
    for fidelity in (0.0, 1e-9, 1e-5, 1e-4, 1e-2):
        for one in calibrate(pool, ["r8", "r14"], digits, recipe, AUTO, fidelity).values():
            assert [m.name for m in one.measured] == [*ENCODERS, *FITTED]
            assert one.rows == 100
            holding = [m for m in one.measured if m.reason is None]
            for measured in one.measured:
                worst = max(
                    [v for k, v in measured.errors.items() if k.startswith("kl_")], default=0.0
                )
                if measured.reason is None:
                    assert worst <= fidelity
                else:
                    assert measured.encoder is None or worst > fidelity or fidelity == 0
            smallest = min(holding, key=lambda m: m.bytes_a_row)
            assert one.chosen is smallest.encoder
            if fidelity == 0:
                assert one.chosen.name == "float32"
            assert (
                json.loads(json.dumps(one.to_json(), allow_nan=False))["chosen"] == one.chosen.name
            )


def test_every_row_is_measured(digits_checkpoint: Callable[[str], Path]) -> None:
    """Or a sample of them could find a fitted encoder a little above what it was fitted to."""
    dataset = open_dataset("digits")
    mentor = load_mentor("r8", dataset, digits_checkpoint("r8"))
    pool = MentorPool([mentor], device=CPU, run_shape=RunShape(batch=256))
    recipe = kdcache.views.make_recipe("crop-flip", **dataset.view_parameters)
    one = calibrate(pool, ["r8"], dataset, recipe, AUTO)["r8"]
    assert one.rows == len(dataset) == 1438
    pixels = recipe(dataset.images(dataset.index_N), dataset.index_N, 0)
    exact = pool.run(pixels)[:, 0].numpy()
    labels_N = dataset.labels(dataset.index_N)
    for measured in one.measured:
        assert measured.encoder is not None
        decoded = measured.encoder.round_trip(measured.encoder.encode(exact, labels_N), labels_N)
        for temperature, kl in mean_divergences(exact, decoded).items():
            told = measured.errors.get(f"kl_t{temperature}", 0.0)
            assert told == pytest.approx(kl, rel=1e-9, abs=1e-15)


def test_what_was_measured_is_kept_for_people_and_never_needed(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    root = tmp_path / "s"
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=root, views=1, encoder=AUTO, fidelity=1e-9
    )
    for name in store.mentors:
        path = store.mentor(name).array.calibration
        told = json.loads(path.read_text())
        assert (told["fidelity"], told["rows"]) == (1e-9, 100)
        assert set(told["measured"]) == {*ENCODERS, *FITTED}
        assert told["chosen"] == store.mentor(name).encoder.name
        path.unlink()
    assert verify(root).ok
    assert PrecomputeJob(digits, digits_mentors, store=root).plan.units == ()
    assert open_store(root).usable_views(["r8", "r14"]) == [0]


def test_a_run_that_fails_before_its_first_commit_leaves_no_encoder(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    """Or the next one would take a table that was fitted to another checkpoint."""
    job = PrecomputeJob(
        digits, digits_mentors[:1], store=tmp_path / "s", encoder="residual", views=1
    )
    with torch.no_grad():
        for parameter in digits_mentors[0].network.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(RunFailed, match="NaN"):
        job.run()
    group = tmp_path / "s" / "mentors" / "r14"
    assert [path.name for path in group.rglob("*.json")] == []


def test_inspecting_does_not_print_a_table(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    store = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=1, encoder="residual"
    )
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "s"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["mentors"] == inspect_store(store)["mentors"]
    for mentor in told["mentors"]:
        encoder = mentor["encoder"]
        table = store.mentor(mentor["name"]).encoder.describe()["table"]
        assert table not in result.output
        assert len(encoder["table_sha256"]) == 64
        assert encoder["measured_error"]["kl_t4"] <= 1.2e-4
        assert {"fine", "coarse", "knee", "absolute_error"} <= set(encoder)
