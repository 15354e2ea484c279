"""Fitted encoders in a store: their second copy, healing, damage, and what strangers write."""

import base64
import json
import shutil
import threading
import tracemalloc
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
from kdcache.errors import DamagedTargets, StoreError, StoreMismatch
from kdcache.mentors import Mentor
from kdcache.precompute import PrecomputeJob, PrecomputeResult
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.verification import verify
from tests.store.small import alter, alter_attributes, files_of

Damage = Callable[[Path], None]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 samples in 4 blocks of 25."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 32)


@pytest.fixture(params=FITTED)
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
) -> TargetStore:
    """Two views of r14 and r8."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "s", views=2, encoder=request.param, batch_size=64
    )


def heal(store: TargetStore, digits: ImageDataset, mentors: list[Mentor]) -> PrecomputeResult:
    return PrecomputeJob(digits, mentors, store=store.root, batch_size=64).run()


def values(store: TargetStore) -> np.ndarray:
    return np.stack([store.targets(view, store.index_N) for view in (0, 1)])


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
    store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    name: str,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without fitting, which another machine may do otherwise."""
    before, said = contents(store.root), values(store)
    path = store.root / "mentors" / "r8" / name
    damage(path)
    (found,) = verify_store(store.root).damaged
    assert (found.mentor, found.path) == ("r8", str(path))
    no_fitting(monkeypatch)
    healed = heal(store, digits, digits_mentors)
    assert healed.num_pixels == 0
    assert path in healed.healed
    assert verify_store(store.root).ok
    assert contents(store.root) == before
    assert np.array_equal(values(healed.store), said)


def test_a_store_is_read_without_its_second_copies(store: TargetStore) -> None:
    said = values(store)
    for name in store.mentors:
        store.mentor(name).array.spare_encoder.unlink()
    assert np.array_equal(values(open_store(store.root)), said)
    assert {Path(d.path).name for d in verify(store.root).damaged} == {"encoder.json"}
    assert {d.reason for d in verify(store.root).damaged} == {"the file is gone"}
    command = verify(store.root, dataset="digits").healing
    assert command is not None
    assert "r14,r8" in command


def test_a_second_copy_of_another_mentor_is_damage(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = contents(store.root)
    arrays = [store.mentor(name).array for name in ("r14", "r8")]
    shutil.copy(arrays[0].spare_encoder, arrays[1].spare_encoder)
    (found,) = verify_store(store.root).damaged
    assert found.reason == "it is of another encoder than the array's"
    heal(store, digits, digits_mentors)
    assert contents(store.root) == before


def test_both_copies_gone_are_fitted_anew_to_the_same(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    before = contents(store.root)
    array = store.mentor("r8").array
    array.metadata.unlink()
    array.spare_encoder.unlink()
    healed = heal(store, digits, digits_mentors)  # on the same machine: bit for bit
    assert healed.num_pixels == 0
    assert contents(store.root) == before


def test_another_table_never_takes_the_place_of_the_lost_one(
    store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on another machine, whose forward passes differ in the last bits."""
    array = store.mentor("r8").array
    array.metadata.unlink()
    array.spare_encoder.unlink()
    before = contents(store.root)
    name = store.mentor("r8").encoder.name
    fit = FITTED[name].fit

    def otherwise(targets_KC: Any, labels_K: Any, fidelity: float) -> Any:
        fitted = fit(targets_KC, labels_K, fidelity)
        assert isinstance(fitted, Residual)
        return replace(fitted, table=bytes(b ^ 1 for b in fitted.table))

    monkeypatch.setitem(FITTED, name, replace(FITTED[name], fit=otherwise))
    with pytest.raises(StoreMismatch, match=r"8 commit records are not of .*--fidelity; what is"):
        heal(store, digits, digits_mentors)
    assert contents(store.root) == before


def test_a_damaged_copy_beside_a_sound_one_survives_another_machine(
    store: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Views are added to a mentor whose array's document is gone: by the second copy."""
    said = values(store)
    store.mentor("r8").array.metadata.unlink()
    no_fitting(monkeypatch)
    more = PrecomputeJob(digits, digits_mentors, store=store.root, batch_size=64, views=3).run()
    assert more.num_pixels == 100
    assert np.array_equal(values(more.store), said)
    assert more.store.usable_views(["r8", "r14"]) == [0, 1, 2]


def test_damaged_chunks_are_computed_again(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    said, array = values(store), store.mentor("r8").array
    flip(array.chunk(0, 1))
    lose(array.chunk(1, 3))
    with pytest.raises(DamagedTargets, match="'r8', view 0, block 1 are damaged"):
        store.targets(0, store.index_N)
    with (
        pytest.raises(DamagedTargets, match="view 1, block 3"),
        kdcache.TargetStream(store, device="cpu").view(1),
    ):
        pass
    assert len(verify_store(store.root).damaged) == 2
    assert heal(store, digits, digits_mentors).num_pixels == 50
    assert np.array_equal(values(open_store(store.root)), said)


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


# What strangers write


def restate(store: TargetStore, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes r8's encoder in both copies, sealed anew."""
    array = store.mentor("r8").array
    alter_attributes(array.metadata, lambda found: change(found["encoder"]))
    alter(array.spare_encoder, lambda found: change(found["encoder"]))


HOSTILE: dict[str, dict[str, Any]] = {
    "no table": {"table": ""},
    "a short table": {"table": base64.b64encode(bytes(99)).decode()},
    "no base64": {"table": "%" * 136},
    "a table of megabytes": {"table": "A" * 3_000_000},
    "a table of numbers": {"table": [0] * 100},
    "no number": {"fine": None},
    "negative": {"coarse": -1.0},
    "huge": {"fine": 1e308},
    "tiny": {"coarse": 1e-308},
    "finer beyond the knee": {"coarse": 2.0**15},
    "a knee beyond": {"knee": 256},
    "a long knee": {"knee": 10**15},
    "a wrong bound": {"root_error": 1e-9},
    "another member": {"another": 1},
    "another name": {"name": "residual2"},
    "a name that is none": {"name": ["residual"]},
    "other arithmetic": {"arithmetic": "target = stored"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_encoder_is_refused_and_the_other_mentor_read(
    store: TargetStore, case: str
) -> None:
    said = store.targets(0, store.index_N, ["r14"])
    restate(store, lambda encoder: encoder.update(HOSTILE[case]))
    tracemalloc.start()
    opened = open_store(store.root)
    assert np.array_equal(opened.targets(0, opened.index_N, ["r14"]), said)
    with pytest.raises(StoreError, match="which this version of kdcache cannot decode") as caught:
        opened.mentor("r8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 2000
    size = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert peak < 64 * size + 2**22  # and what reading the first store takes once
    assert not verify_store(store.root).ok


def test_a_table_of_others_is_no_ones_targets(store: TargetStore) -> None:
    """A sound description, but not that of what was committed: the records tell."""
    other = store.mentor("r14").encoder.describe()
    restate(store, lambda encoder: encoder.update(other))
    with pytest.raises(DamagedTargets, match="of targets of another mentor, encoder or store"):
        open_store(store.root).targets(0, store.index_N, ["r8"])


def test_what_differs_is_told_without_its_table(store: TargetStore) -> None:
    array = store.mentor("r8").array
    alter_attributes(array.metadata, lambda found: found.update(another=1))
    with pytest.raises(StoreError, match="attributes is") as caught:
        open_store(store.root).mentor("r8")
    assert len(caught.value.args[0]) < 1500


@pytest.mark.parametrize("value", [None, [], {}, "text", {"encoder": []}, {"encoder": "residual"}])
def test_a_hostile_second_copy_is_damage_and_made_anew(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], value: Any
) -> None:
    before = contents(store.root)
    path = store.mentor("r8").array.spare_encoder
    sealed = json.loads(path.read_text())

    def change(document: dict[str, Any]) -> None:
        document.clear()
        document.update({"encoder": value, "seal": sealed["seal"]})

    alter(path, change)
    assert not verify_store(store.root).ok
    heal(store, digits, digits_mentors)
    assert contents(store.root) == before


def test_links_are_not_followed_in_healing(
    store: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor], tmp_path: Path
) -> None:
    path, outside = store.mentor("r8").array.spare_encoder, tmp_path / "outside.json"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)
    assert not verify_store(store.root).ok
    before = outside.read_bytes()
    heal(store, digits, digits_mentors)
    assert outside.read_bytes() == before
    assert not path.is_symlink()
    assert verify_store(store.root).ok
