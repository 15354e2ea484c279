"""Export: what precompute with that encoder makes, bit for bit; resumed, verified, refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import kdcache
from kdcache.cli import main
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.errors import DamagedTargets, MissingTargets, StoreError, StoreMismatch, UsageError
from kdcache.inspection import inspect_store
from kdcache.mentors import Mentor
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.verification import verify
from tests.test_precompute import snapshot, stop_after
from tests.test_precompute_kinds import flip

NAMES = ["float32", "float16", "sqrt8", "sqrt8-zstd", "residual", "coarse", "auto"]
ALL_KINDS: dict[str, Any] = {"features": True, "keep_logsumexp": True}


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture
def exact(tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]) -> TargetStore:
    """Two views of two mentors in float32."""
    return kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "exact", views=2, encoder="float32"
    )


def documents(root: Path) -> dict[str, bytes]:
    """Every document of a store, its lists, and what encoders cost; not the commits' index."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("encoder", NAMES)
def test_it_is_what_precompute_makes(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor], encoder: str
) -> None:
    """Every file of it, of every kind: one way of writing."""
    for name, made in (("exact", "float32"), ("direct", encoder)):
        kdcache.precompute_targets(
            digits, digits_mentors, store=tmp_path / name, views=2, encoder=made, **ALL_KINDS
        )
    kdcache.export_store(tmp_path / "exact", tmp_path / "exported", encoder=encoder)
    assert documents(tmp_path / "exported") == documents(tmp_path / "direct")
    assert verify(tmp_path / "exported", dataset="digits").ok


def test_a_fidelity_is_kept_as_precompute_keeps_it(
    tmp_path: Path, exact: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    options: dict[str, Any] = {"encoder": "residual", "fidelity": 3e-5}
    kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "direct", views=2, **options
    )
    kdcache.export_store(exact, tmp_path / "exported", **options)
    assert documents(tmp_path / "exported") == documents(tmp_path / "direct")


@pytest.mark.parametrize("encoder", ["float16", "coarse"])
@pytest.mark.parametrize("polls", [0, 1, 6, 15])
def test_stopped_anywhere_it_goes_on_and_ends_the_same(
    tmp_path: Path, exact: TargetStore, polls: int, encoder: str
) -> None:
    whole = kdcache.export_store(exact, tmp_path / "undisturbed", encoder=encoder)
    root = tmp_path / "stopped"
    result = kdcache.ExportJob(exact, root, encoder=encoder).run(should_stop=stop_after(polls))
    assert (result.stopped, result.num_rows) == (True, 25 * polls)
    assert verify_store(root).ok
    again = kdcache.ExportJob(exact, root, encoder=encoder)
    assert (again.reused, again.num_rows) == (polls, 25 * (16 - polls))
    assert not again.run().stopped
    assert documents(root) == documents(whole.root)
    assert kdcache.ExportJob(exact, root, encoder=encoder).run().num_rows == 0


def test_what_the_destination_lost_is_encoded_again(tmp_path: Path, exact: TargetStore) -> None:
    store = kdcache.export_store(exact, tmp_path / "new", encoder="residual")
    before = snapshot(store.root)
    stored = store.mentor("r8")
    flip(stored.array.chunk(1, 2))
    flip(stored.array.metadata)
    job = kdcache.ExportJob(exact, store.root, encoder="residual")
    assert list(job.chunks) == [(1, 2)]
    assert job.run().healed == [stored.array.metadata]
    assert snapshot(store.root) == before


def test_mentors_and_views_are_chosen_and_added(tmp_path: Path, exact: TargetStore) -> None:
    root = tmp_path / "part"
    part = kdcache.export_store(exact, root, encoder="residual", mentors=["r8"], views=[1])
    assert (part.mentors, part.num_views, part.usable_views(["r8"])) == (["r8"], 2, [1])
    assert part.fingerprint == exact.fingerprint
    table = part.mentor("r8").encoder
    whole = kdcache.export_store(exact, root, encoder="residual")
    assert whole.mentor("r8").encoder == table  # fitted once
    assert whole.usable_views(["r8", "r14"]) == [0, 1]
    for view in range(2):
        bound = whole.mentor("r8").encoder.bound(exact.targets(view, exact.index_N, ["r8"]))
        off = np.abs(
            whole.targets(view, exact.index_N, ["r8"]) - exact.targets(view, exact.index_N, ["r8"])
        )
        assert (off <= bound).all()


def test_precompute_goes_on_with_an_exported_store(
    tmp_path: Path, exact: TargetStore, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    kdcache.export_store(exact, tmp_path / "new", encoder="float16", mentors=["r8"], views=1)
    kdcache.precompute_targets(digits, digits_mentors, store=tmp_path / "new", views=2)
    kdcache.export_store(exact, tmp_path / "at once", encoder="float16")
    assert snapshot(tmp_path / "new") == snapshot(tmp_path / "at once")


def test_what_the_source_lacks_is_lacking_unless_it_was_asked_for(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    job = kdcache.PrecomputeJob(
        digits, digits_mentors, store=tmp_path / "some", views=3, encoder="float32"
    )
    assert job.run(should_stop=stop_after(6)).stopped
    new = kdcache.export_store(tmp_path / "some", tmp_path / "new", encoder="residual")
    assert (new.num_views, new.usable_views(["r8"])) == (3, [0])
    assert len(new.mentor("r8").commits) == 6
    with pytest.raises(MissingTargets, match=r"not all of view 1 .*kdcache precompute"):
        kdcache.ExportJob(job.root, tmp_path / "other", encoder="float16", views=2)
    with pytest.raises(MissingTargets, match="not all of view 7"):
        kdcache.ExportJob(job.root, tmp_path / "other", encoder="float16", views=[0, 7])
    assert not (tmp_path / "other").exists()


def test_a_damaged_source_is_told_with_its_healing(tmp_path: Path, exact: TargetStore) -> None:
    stored = exact.mentor("r14")
    flip(stored.array.chunk(1, 3))
    with pytest.raises(DamagedTargets, match=r"view 1, block 3 are damaged.*kdcache precompute"):
        kdcache.export_store(exact, tmp_path / "new", encoder="float16")
    assert verify_store(tmp_path / "new").ok
    stored.array.chunk(1, 1).unlink()
    with pytest.raises(DamagedTargets, match="view 1, block 1 are damaged: the file is gone"):
        kdcache.ExportJob(exact, tmp_path / "another", encoder="float16")
    (stored.array.commits / stored.commits[0, 0].file_name).unlink()
    with pytest.raises(DamagedTargets, match="view 0, block 0 are damaged: the commit record"):
        kdcache.ExportJob(open_store(exact.root), tmp_path / "another", encoder="float16")
    assert not (tmp_path / "another").exists()


def test_wrong_use_says_what_to_do(
    tmp_path: Path, exact: TargetStore, digits_mentors: list[Mentor]
) -> None:
    def refused(error: type[Exception], match: str, root: Path, **options: Any) -> None:
        before = documents(root) if root.exists() else None
        with pytest.raises(error, match=match):
            kdcache.ExportJob(exact, root, **{"encoder": "float16", **options})
        assert (documents(root) if root.exists() else None) == before

    new = tmp_path / "new"
    link = tmp_path / "link"
    link.symlink_to(exact.root)
    refused(UsageError, "is the source itself; name a new folder", exact.root)
    refused(UsageError, "is the source itself; name a new folder", link)
    refused(UsageError, "unknown encoder 'float8'", new, encoder="float8")
    refused(UsageError, "--fidelity is a mean KL", new, fidelity=-1.0)
    refused(UsageError, "not within a mean KL of 1e-30", new, fidelity=1e-30)
    refused(UsageError, "got 0", new, views=0)
    refused(UsageError, "a list of numbers from 0", new, views=[-1, 0])
    refused(UsageError, "from 0 to 262,143; got 10000000000", new, views=10**10)
    refused(UsageError, r"got \(\)", new, views=())
    refused(MissingTargets, "has no mentor 'r20'", new, mentors=["r20"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    refused(StoreError, "not a kdcache store", tmp_path / "full")
    others = open_dataset("digits", samples=50)
    kdcache.precompute_targets(others, digits_mentors[:1], store=tmp_path / "other", views=1)
    refused(StoreMismatch, r"num_samples\s+100\s+50", tmp_path / "other")
    kdcache.export_store(exact, tmp_path / "small", encoder="sqrt8", views=1)
    refused(StoreMismatch, r"encoder\s+sqrt8\s+float16", tmp_path / "small")
    with pytest.raises(StoreError, match="does not exist"):
        kdcache.ExportJob(tmp_path / "nowhere", new, encoder="float16")


def test_a_source_that_is_not_exact_is_stated(
    tmp_path: Path,
    exact: TargetStore,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    half = kdcache.precompute_targets(
        digits, digits_mentors, store=tmp_path / "half", views=2, **ALL_KINDS
    )
    job = kdcache.ExportJob(half, tmp_path / "small", encoder="residual", fidelity=1e-4)
    assert "r8' as float16, which is not exact (a mean KL of" in job.inexact["r8"]
    small = job.run().store
    assert not kdcache.ExportJob(exact, tmp_path / "else", encoder="residual").inexact
    stated = {
        store.root.name: inspect_store(store)["mentors"][0]["encoder"]["measured_error"]
        for store in (half, small)
    }
    for key, value in stated["half"].items():
        prefix, rest = ("max_", key[4:]) if key.startswith("max_") else ("", key)
        assert stated["small"][f"{prefix}source_{rest}"] == pytest.approx(value)
    assert stated["small"]["kl_t4"] > stated["half"]["kl_t4"] > 0
    features = small.mentor("r8", "features").commits[1, 2].error_sums
    assert features["relative"] == 0 < features["source_relative"]
    assert small.mentor("r8", "logsumexp").commits[1, 2].error_sums == {}
    given = {name: digits_checkpoint(name) for name in ("r14", "r8")}
    found = verify(small.root, recompute=40, checkpoints=given, device="cpu")
    assert (found.ok, found.recomputed) == (True, 2 * 3 * 40)


def test_rows_are_compared_with_what_the_source_had_lost_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits: ImageDataset,
    digits_mentors: list[Mentor],
    digits_checkpoint: Callable[[str], Path],
) -> None:
    source = kdcache.precompute_targets(
        digits, digits_mentors[1:], store=tmp_path / "source", views=1, encoder="sqrt8"
    )
    small = kdcache.export_store(source, tmp_path / "small", encoder="residual", fidelity=1e-3)

    def is_believed() -> bool:
        given = {"r8": digits_checkpoint("r8")}
        return verify(small.root, recompute=200, checkpoints=given, device="cpu").ok

    assert is_believed()
    monkeypatch.setattr("kdcache.encode.TargetKind.source_error", lambda kind, sums: 0.0)
    assert not is_believed()


def test_a_source_too_coarse_for_what_is_wanted_is_refused(
    tmp_path: Path, digits: ImageDataset, digits_mentors: list[Mentor]
) -> None:
    coarse = kdcache.precompute_targets(
        digits, digits_mentors[:1], store=tmp_path / "coarse", views=1, encoder="sqrt8"
    )
    new = tmp_path / "new"
    for encoder, match in (
        ("float32", "as float32 it would be taken for exact"),
        ("float16", r"a mean KL of .*, more than the .* that float16 costs"),
    ):
        with pytest.raises(UsageError, match=match):
            kdcache.ExportJob(coarse, new, encoder=encoder)
    assert not new.exists()
    packed = kdcache.export_store(coarse, new, encoder="sqrt8-zstd")  # loses nothing more
    index = digits.index_N
    assert np.array_equal(packed.targets(0, index), coarse.targets(0, index))
    with pytest.raises(UsageError, match="has it from another that was not"):
        kdcache.ExportJob(packed, tmp_path / "third", encoder="coarse")


def test_the_command_exports_and_tells(tmp_path: Path, exact: TargetStore) -> None:
    def kdcache_(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(main, list(map(str, words)))
        assert done.exit_code == code, done.output
        return done.output

    half, small = tmp_path / "half", tmp_path / "small"
    output = kdcache_("export", exact.root, half, "--encoder", "float16", "--views", "0,1")
    assert "encoded 400 rows in" in output
    assert "errors add up" not in output
    assert "nothing to encode" in kdcache_("export", exact.root, half, "--encoder", "float16")
    output = kdcache_("export", half, small, "--encoder", "auto", "--mentors", "r8")
    assert "r8 on 100 targets, mean KL at T = 1, 4, 12 at most 0.0001:" in output
    assert "warning: " in output
    assert "'r8' as float16, which is not exact" in output
    assert "errors add up" in output
    assert "is sound" in kdcache_("verify", small)
    assert "is the source itself" in kdcache_("export", half, half, "--encoder", "auto", code=2)
    assert "Missing option '--encoder'" in kdcache_("export", half, small, code=2)
