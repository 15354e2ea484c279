"""Two stores side by side: views, mentors, chunks; without reading one."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import kdcache
from kdcache.cli import main
from kdcache.differing import StoreDifference, compare_stores
from kdcache.errors import StoreError
from tests.remote.serving import serving
from tests.store.small import alter_attributes, block_of, commit_rows, make_store, random_targets

SIZE: dict[str, Any] = {"num_samples": 32, "num_classes": 100, "views": 3}
KEYS = [(name, view, block) for name in ("r8", "r20") for view in range(3) for block in range(4)]


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Four blocks of 8 samples; no waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        block_of(patch, 8)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def store(root: Path, **options: Any) -> Path:
    make_store(root, **{"mentors": ("r8", "r20"), **SIZE, **options})
    return root


def text(found: StoreDifference) -> str:
    return "\n".join(found.lines())


def test_a_copy_is_alike(tmp_path: Path) -> None:
    left = store(tmp_path / "a")
    kdcache.merge_stores(left, tmp_path / "b")
    found = compare_stores(left, tmp_path / "b")
    assert found.alike
    assert found.lines() == [
        "mentor r20, in both alike: 12 chunks",
        "mentor r8, in both alike: 12 chunks",
    ]


@settings(deadline=None, max_examples=15)
@given(lost=st.tuples(st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(KEYS))))
def test_chunks_are_told_apart(
    tmp_path_factory: pytest.TempPathFactory, lost: tuple[set[Any], set[Any]]
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    pair = [store(folder / name, skip=gone) for name, gone in zip("ab", lost, strict=True)]
    found = compare_stores(*pair)
    for one in found.targets:
        ours = [{key[1:] for key in KEYS if key[0] == one.title and key not in x} for x in lost]
        assert set(one.only_left) == ours[0] - ours[1]
        assert set(one.only_right) == ours[1] - ours[0]
        assert (one.same, one.other_bytes) == (len(ours[0] & ours[1]), ())
    assert found.alike == (lost[0] == lost[1])


def test_other_bytes(tmp_path: Path) -> None:
    left, right = store(tmp_path / "a"), store(tmp_path / "b", skip=[("r8", 1, 2)])
    rows = random_targets(1, 8, 100, seed=77)[0]
    commit_rows(kdcache.open_store(right), "r8", (1, 2), rows)
    found = compare_stores(left, right)
    assert [one.other_bytes for one in found.targets] == [(), ((1, 2),)]
    assert "mentor r8, in both with other bytes" in text(found)


def test_views_mentors_and_how_they_were_made(tmp_path: Path) -> None:
    left = store(tmp_path / "a")
    assert "num_samples" in text(compare_stores(left, store(tmp_path / "b", num_samples=30)))
    fewer = compare_stores(left, store(tmp_path / "c", mentors=["r8"]))
    assert (fewer.only_left, fewer.only_right, fewer.alike) == (("r20",), (), False)
    other = compare_stores(left, store(tmp_path / "d", encoder="sqrt8"))
    assert other.targets[0].fields["encoder"] == ("float16", "sqrt8")
    assert other.targets[0].same == 0
    changed = store(tmp_path / "e", skip=KEYS)
    alter_attributes(
        kdcache.open_store(changed).mentor("r8").array.group / "zarr.json",
        lambda found: found.update(checkpoint_sha256="1" * 64),
    )
    found = compare_stores(left, changed)
    assert list(found.targets[1].fields) == ["checkpoint_sha256"]
    assert "mentor r8 was made otherwise" in text(found)
    assert compare_stores(left, store(tmp_path / "f", views=4)).targets[0].views == (3, 4)


def test_damage_is_a_difference(tmp_path: Path) -> None:
    left, right = store(tmp_path / "a"), store(tmp_path / "b")
    stored = kdcache.open_store(right).mentor("r8")
    (stored.array.commits / stored.commits[0, 1].file_name).write_text("{}")
    kdcache.open_store(right).mentor("r20").array.metadata.write_text("{}")
    found = compare_stores(left, right)
    assert not found.alike
    assert "mentor r8: view 0, block 1 is damaged in" in text(found)
    assert "mentor r20: " in text(found)


def test_how_many_views_are_meant(tmp_path: Path) -> None:
    left, right = store(tmp_path / "a"), store(tmp_path / "b", views=2)
    told = text(compare_stores(left, right))
    assert f"mentor r8 is to have 3 views in {left}, 2 in {right}" in told


def test_the_command(tmp_path: Path) -> None:
    left, right = store(tmp_path / "a"), store(tmp_path / "b", skip=[("r20", 2, 3)])

    def diff(*words: object, code: int) -> str:
        done = CliRunner().invoke(main, ["diff", *map(str, words)])
        assert done.exit_code == code, done.output
        return done.output

    with serving(tmp_path) as server:
        assert diff(left, f"{server.url}/a", code=0).endswith("alike\n")
        output = diff(f"{server.url}/b", left, code=1)
        assert server.chunks == []
    assert f"mentor r20, only in {left}: 1 chunks of views 2" in output
    found = json.loads(diff(left, right, "--json", code=1))
    assert (found["alike"], found["targets"][0]["only_left"]) == (False, [[2, 3]])
    assert "does not exist" in diff(left, tmp_path / "nowhere", code=2)
    with pytest.raises(StoreError):
        compare_stores(left, tmp_path)
