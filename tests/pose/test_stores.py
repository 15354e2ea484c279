"""Stores of heatmaps on their way: exported, copied, pruned, compared, pushed, pulled, reused."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kdcache
from kdcache.card import store_card
from kdcache.cli import main
from kdcache.datasets import ImageDataset
from kdcache.differing import compare_stores
from kdcache.encode import HEATMAPS, KEYPOINTS
from kdcache.errors import UsageError
from kdcache.mentors import load_mentor
from kdcache.precompute import PrecomputeJob
from kdcache.reusing import ReuseJob
from kdcache.store import TargetStore, open_store, prune_store, verify_store
from tests.damaging import flip
from tests.pose.conftest import MENTORS, RECIPE, Run, small_blocks
from tests.test_precompute import snapshot


def kdcache_(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_an_export_of_exact_heatmaps_is_what_precompute_makes(
    tmp_path: Path, exact_store: TargetStore, small_store: TargetStore
) -> None:
    exported = kdcache.export_store(exact_store, tmp_path / "E", encoder="heatmap8")
    assert snapshot(exported.root) == snapshot(small_store.root)
    assert verify_store(exported.root).ok
    assert compare_stores(exported, small_store).alike
    lines = "\n".join(compare_stores(exact_store, exported).lines())
    assert "float32" in lines
    assert "heatmap8" in lines
    halves = kdcache.export_store(exact_store, tmp_path / "F", encoder="float16")
    index = exact_store.index_N
    exact, half = exact_store.targets(0, index), halves.targets(0, index)
    assert 0 < np.abs(exact - half).max() < 0.01
    np.testing.assert_array_equal(
        exact_store.targets(1, index, kind="keypoints"), halves.targets(1, index, kind="keypoints")
    )


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("float16", "more than the .* that float16 costs"),
        ("float32", "as float32 it would be taken for exact"),
        ("heatmap8", "encoding that anew loses more; .* kdcache merge"),
    ],
)
def test_what_lost_something_is_not_passed_off_as_better(
    tmp_path: Path, small_store: TargetStore, encoder: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        kdcache.export_store(small_store, tmp_path / "E", encoder=encoder)
    assert not (tmp_path / "E").exists()


def test_a_coarser_one_states_both_errors(tmp_path: Path, exact_store: TargetStore) -> None:
    halves = kdcache.export_store(exact_store, tmp_path / "half", encoder="float16", views=[1])
    small = kdcache.export_store(halves, tmp_path / "small", encoder="heatmap8")
    for record in small.mentor("lp18").commits.values():
        assert 0 < record.error_sums["source_relative"] < record.error_sums["relative"]
    with pytest.raises(UsageError, match="has it from another that was not"):
        kdcache.export_store(small, tmp_path / "again", encoder="heatmap8")


def test_merged_and_pruned(tmp_path: Path, small_store: TargetStore) -> None:
    merged = kdcache.merge_stores(small_store, tmp_path / "M")
    assert snapshot(merged.root) == snapshot(small_store.root)
    assert compare_stores(merged, small_store).alike
    prune_store(merged.root, views=[1])
    pruned = open_store(merged.root)
    for kind in (HEATMAPS.name, KEYPOINTS.name):
        assert pruned.usable_views(MENTORS, kinds=[kind]) == [0]
    assert not compare_stores(pruned, small_store).alike
    assert verify_store(merged.root).ok
    kdcache.merge_stores(small_store, tmp_path / "M")
    assert snapshot(merged.root) == snapshot(small_store.root)


def test_its_card_says_what_it_is_and_its_command_makes_it(
    tmp_path: Path,
    sticks: Path,
    checkpoints: dict[str, str],
    small_store: TargetStore,
) -> None:
    card = store_card(small_store)
    for part in (
        "keypoint-detection",
        "24 people of 17 joints each",
        "heatmaps, keypoints (float32)",
        "The mean shift is what encoding moved keypoints by",
    ):
        assert part in card
    for part in ("top-1", "KL", "image-classification", "classes"):
        assert part not in card
    (line,) = [one for one in card.splitlines() if one.startswith("kdcache precompute")]
    words = [str(tmp_path / "again") if w == "STORE" else w for w in shlex.split(line)][1:]
    for name in MENTORS:
        words += ["--checkpoint", f"{name}={checkpoints[name]}"]
    with small_blocks():
        kdcache_(*words, "--data-dir", sticks, "--device", "cpu")
    assert snapshot(tmp_path / "again") == snapshot(small_store.root)
    assert "wrote" in kdcache_("card", tmp_path / "again")


def test_through_a_hub(tmp_path: Path, small_store: TargetStore, sticks: Path, train: Run) -> None:
    hub = tmp_path / "hub"
    kdcache_("push", small_store.root, hub)
    listed = kdcache_("list", hub)
    assert "17 joints" in listed
    assert "  lp18 keypoints" in listed
    assert "heatmaps" not in listed
    kdcache_("pull", hub, "--store", tmp_path / "pulled")
    assert snapshot(tmp_path / "pulled") == snapshot(small_store.root)
    address = f"{hub}/stores/{small_store.fingerprint}"
    from_hub = list(train("hub", store=address))
    from_folder = list(train("folder", store=str(small_store.root)))
    assert [r["train_loss"] for r in from_hub] == [r["train_loss"] for r in from_folder]
    assert "is sound" in kdcache_("verify", tmp_path / "pulled", "--data-dir", sticks)


@pytest.mark.parametrize("flip_test", [False, True])
def test_what_a_hub_has_is_taken_and_compared(
    tmp_path: Path,
    people: ImageDataset,
    checkpoints: dict[str, str],
    sticks: Path,
    flip_test: bool,
) -> None:
    """Run shape, encoder and flip test are the hub's where nothing else is asked for."""
    hub, first = tmp_path / "hub", tmp_path / "first"
    mentor = load_mentor("mbpose", people, checkpoints["mbpose"])
    with small_blocks():
        kdcache.precompute_targets(
            people, [mentor], store=first, recipe=RECIPE, views=1, device="cpu",
            flip_test=flip_test, batch_size=128,
        )  # fmt: skip
        kdcache_("push", first, hub)
        options: list[object] = ["--data-dir", sticks, "--device", "cpu", "--views", 1]
        for name in ("height=64", "width=64", "half_body=0.3", "jitter=0.1"):
            options += ["--recipe-option", name]
        output = kdcache_(
            "precompute", "--dataset", "coco-keypoints", "--mentors", "mbpose", "--checkpoint",
            f"mbpose={checkpoints['mbpose']}", "--hub", hub, "--store", tmp_path / "S", *options,
        )  # fmt: skip
    assert "took 4 chunks" in output
    assert "nothing to compute" in output
    assert snapshot(tmp_path / "S") == snapshot(first)


def test_chunks_of_another_network_are_not_taken(
    tmp_path: Path, people: ImageDataset, checkpoints: dict[str, str], small_store: TargetStore
) -> None:
    """Their checksums hold: what is stored says another mentor's name."""
    hub, forged = tmp_path / "hub", tmp_path / "forged"
    mentor = load_mentor("mbpose", people, checkpoints["mbpose"])
    weights = mentor.network.get_parameter("final_layer.weight").data
    weights[[13, 14]] = weights[[14, 13]]
    with small_blocks():
        kdcache.precompute_targets(
            people, [mentor], store=forged, recipe=RECIPE, views=1, device="cpu"
        )
        kdcache_("push", forged, hub)
        reuse = ReuseJob(
            people, ["mbpose"], str(hub), checkpoints={"mbpose": checkpoints["mbpose"]},
            store=tmp_path / "S", recipe=RECIPE, views=1, device="cpu",
        )  # fmt: skip
        taken = reuse.take()
        assert not any(taken.chunks.values())
        assert {damage.kind for damage in taken.refused} == {"heatmaps", "keypoints"}
        store = reuse.run().store
    index = people.index_N
    np.testing.assert_array_equal(
        store.targets(0, index, ["mbpose"]), small_store.targets(0, index, ["mbpose"])
    )


def test_a_command_that_heals_says_the_flip_test(
    tmp_path: Path, people: ImageDataset, checkpoints: dict[str, str]
) -> None:
    mentor = load_mentor("mbpose", people, checkpoints["mbpose"])
    job = PrecomputeJob(
        people, [mentor], store=tmp_path / "S", recipe=RECIPE, views=1, device="cpu", flip_test=True
    )
    store = job.run().store
    flip(store.mentor("mbpose").array.chunk(0, 0))
    with pytest.raises(Exception, match="--flip-test") as told:
        store.targets(0, people.index_N)
    command = str(told.value)
    assert "kdcache precompute" in command
