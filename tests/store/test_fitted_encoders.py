"""Fitted encoders in a store: their second copy, healing, damage, and what strangers write."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdcache
from kdcache import durable
from kdcache.datasets import ImageDataset
from kdcache.encode import FITTED, Residual
from kdcache.errors import DamagedTargets, StoreMismatch
from kdcache.mentors import Mentor
from kdcache.precompute import PrecomputeJob
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.verification import verify
from tests.damaging import cut, flip, lose
from tests.store.mending import heal, values
from tests.store.small import files_of

pytestmark = pytest.mark.usefixtures("small_blocks")

Damage = Callable[[Path], None]


def contents(root: Path) -> dict[str, bytes]:
    return {name: content for name, (content, _) in files_of(root).items()}


def no_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an encoder was fitted anew")

    monkeypatch.setattr("kdcache.precompute.calibrate", refuse)


# Healing


@pytest.mark.parametrize("damage", [lose, cut, flip])
@pytest.mark.parametrize("name", ["zarr.json", "logits/zarr.json", "logits/encoder.json"])
def test_each_document_is_made_anew_from_the_other_copy(
    fitted_store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    name: str,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without fitting, which another machine may do otherwise."""
    before, said = contents(fitted_store.root), values(fitted_store)
    path = fitted_store.root / "mentors" / "r8" / name
    damage(path)
    (found,) = verify_store(fitted_store.root).damaged
    assert (found.mentor, found.path) == ("r8", str(path))
    no_fitting(monkeypatch)
    healed = heal(fitted_store, digits, digits_mentors)
    assert healed.num_pixels == 0
    assert path in healed.healed
    assert verify_store(fitted_store.root).ok
    assert contents(fitted_store.root) == before
    assert np.array_equal(values(healed.store), said)


def test_a_store_is_read_without_its_second_copies(fitted_store: TargetStore) -> None:
    said = values(fitted_store)
    for name in fitted_store.mentors:
        fitted_store.mentor(name).array.spare_encoder.unlink()
    assert np.array_equal(values(open_store(fitted_store.root)), said)
    assert {Path(d.path).name for d in verify(fitted_store.root).damaged} == {"encoder.json"}
    assert {d.reason for d in verify(fitted_store.root).damaged} == {"the file is gone"}
    command = verify(fitted_store.root, dataset="digits").healing
    assert command is not None
    assert "r14,r8" in command


def test_a_second_copy_of_another_mentor_is_damage(
    fitted_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = contents(fitted_store.root)
    arrays = [fitted_store.mentor(name).array for name in ("r14", "r8")]
    shutil.copy(arrays[0].spare_encoder, arrays[1].spare_encoder)
    (found,) = verify_store(fitted_store.root).damaged
    assert found.reason == "it is of another encoder than the array's"
    heal(fitted_store, digits, digits_mentors)
    assert contents(fitted_store.root) == before


def test_both_copies_gone_are_fitted_anew_to_the_same(
    fitted_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = contents(fitted_store.root)
    array = fitted_store.mentor("r8").array
    array.metadata.unlink()
    array.spare_encoder.unlink()
    healed = heal(fitted_store, digits, digits_mentors)  # on the same machine: bit for bit
    assert healed.num_pixels == 0
    assert contents(fitted_store.root) == before


def test_another_table_never_takes_the_place_of_the_lost_one(
    fitted_store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on another machine, whose forward passes differ in the last bits."""
    array = fitted_store.mentor("r8").array
    array.metadata.unlink()
    array.spare_encoder.unlink()
    before = contents(fitted_store.root)
    name = fitted_store.mentor("r8").encoder.name
    fit = FITTED[name].fit

    def otherwise(targets_KC: Any, labels_K: Any, fidelity: float) -> Any:
        fitted = fit(targets_KC, labels_K, fidelity)
        assert isinstance(fitted, Residual)
        return replace(fitted, table=bytes(b ^ 1 for b in fitted.table))

    monkeypatch.setitem(FITTED, name, replace(FITTED[name], fit=otherwise))
    with pytest.raises(StoreMismatch, match=r"8 commit records are not of .*--fidelity; what is"):
        heal(fitted_store, digits, digits_mentors)
    assert contents(fitted_store.root) == before


def test_a_damaged_copy_beside_a_sound_one_survives_another_machine(
    fitted_store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Views are added to a mentor whose array's document is gone: by the second copy."""
    said = values(fitted_store)
    fitted_store.mentor("r8").array.metadata.unlink()
    no_fitting(monkeypatch)
    more = PrecomputeJob(
        digits, digits_mentors, store=fitted_store.root, batch_size=64, views=3
    ).run()
    assert more.num_pixels == 100
    assert np.array_equal(values(more.store), said)
    assert more.store.usable_views(["r8", "r14"]) == [0, 1, 2]


def test_damaged_chunks_are_computed_again(
    fitted_store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    said, array = values(fitted_store), fitted_store.mentor("r8").array
    flip(array.chunk(0, 1))
    lose(array.chunk(1, 3))
    with pytest.raises(DamagedTargets, match="'r8', view 0, block 1 are damaged"):
        fitted_store.targets(0, fitted_store.index_N)
    with (
        pytest.raises(DamagedTargets, match="view 1, block 3"),
        kdcache.TargetStream(fitted_store, device="cpu").view(1),
    ):
        pass
    assert len(verify_store(fitted_store.root).damaged) == 2
    assert heal(fitted_store, digits, digits_mentors).num_pixels == 50
    assert np.array_equal(values(open_store(fitted_store.root)), said)


def test_two_writers_at_once_take_one_table(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    """Though each fitted its own, of another fidelity."""
    jobs = [
        PrecomputeJob(
            digits, digits_mentors[:1], store=tmp_path / "s", views=3, encoder="residual",
            fidelity=fidelity,
        )
        for fidelity in (1e-4, 1e-3)
    ]  # fmt: skip
    fitted = [job.calibrations["r14"].chosen for job in jobs]
    assert fitted[0] != fitted[1]
    threads = [threading.Thread(target=job.run) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(tmp_path / "s")
    assert store.mentor("r14").encoder in fitted
    assert store.usable_views(["r14"]) == [0, 1, 2]
    assert verify(store.root).ok


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(4, 11))
def test_a_kill_while_a_mentor_is_made_leaves_nothing_that_decides(
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    writes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each write of its documents: the second copy, the array, the group, the calibration."""
    mentors = digits_mentors[:1]
    whole = kdcache.precompute_targets(
        digits, mentors, store=tmp_path / "whole", views=1, encoder="residual"
    )
    written: list[Path] = []
    write_file = durable.write_file

    def killed(path: Path, *rest: Any, **options: Any) -> None:
        if len(written) == writes:
            raise KilledError
        written.append(path)
        write_file(path, *rest, **options)

    with monkeypatch.context() as until_killed:
        until_killed.setattr(durable, "write_file", killed)
        job = PrecomputeJob(digits, mentors, store=tmp_path / "s", views=1, encoder="residual")
        with pytest.raises(KilledError):
            job.run()
    store = kdcache.precompute_targets(
        digits, mentors, store=tmp_path / "s", views=1, encoder="residual"
    )
    assert verify(store.root).ok
    assert np.array_equal(store.targets(0, store.index_N), whole.targets(0, whole.index_N))
