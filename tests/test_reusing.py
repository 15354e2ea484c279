"""A second home takes what the first pushed, notices what is wrong, and computes the rest."""

import json
import re
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kdcache
from kdcache.checkpoints import save_weights
from kdcache.cli import main
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import Residual
from kdcache.encode.levels import Levels
from kdcache.mentors import load_mentor
from kdcache.models import build_network
from kdcache.reusing import ReuseJob
from kdcache.share import Hub, push_store
from kdcache.share.checkpoints import push_mentor
from kdcache.store import TargetStore, commit_targets, open_store
from kdcache.store.hub_documents import marker
from tests.damaging import flip
from tests.remote.serving import Handler, serving

SAMPLES, BLOCKS, ROWS_A_BLOCK, VIEWS = 100, 4, 25, 3


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is in the environment."""
    monkeypatch.delenv("KDCACHE_HUB", raising=False)


class Home:
    """A home of its own, in which `kdcache precompute` of three views of 100 digits is run."""

    def __init__(self, root: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.hub = root, hub
        self._monkeypatch = monkeypatch

    def kdcache(self, *arguments: object) -> Result:
        self._monkeypatch.setenv("KDCACHE_HOME", str(self.root))
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    def precompute(self, *arguments: object, mentors: str = "r14,r8", views: int = VIEWS) -> Result:
        return self.kdcache(
            *("precompute", "--dataset", "digits", "--samples", SAMPLES, "--views", views),
            *("--mentors", mentors, "--store", self.store, "--hub", self.hub, "--device", "cpu"),
            *("--batch-size", 64, *arguments),
        )

    @property
    def store(self) -> Path:
        return self.root / "store"

    def add_mentor(self, name: str, seed: int = 0) -> Path:
        path = self.root / "mentors" / "digits" / f"resnet{name[1:]}.safetensors"
        save_weights(path, build_network(name, 10, seed=seed), {})
        return path

    def chunks(self) -> dict[str, bytes]:
        """Chunks and commit records: what makes two stores the same store."""
        return {
            str(path.relative_to(self.store)): path.read_bytes()
            for path in sorted((self.store / "mentors").rglob("*"))
            if path.is_file() and ("/c/" in str(path) or "/commits/" in str(path))
        }


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def home(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Home]:
    return lambda name: Home(tmp_path / name, hub, monkeypatch)


@pytest.fixture
def first(home: Callable[[str], Home]) -> Home:
    """Two mentors, their targets and their checkpoints at the hub."""
    made = home("first")
    for name in ("r14", "r8"):
        made.add_mentor(name)
        fine(made.kdcache("push-mentor", name, "--dataset", "digits", "--hub", made.hub))
    fine(made.precompute("--push"), "has nothing of these views", "pushed 24 chunks")
    return made


def fine(result: Result, *parts: str) -> str:
    assert result.exit_code == 0, result.output
    for part in parts:
        assert part in result.output
    return result.output


def ran_over(result: Result) -> int:
    """Views of samples that were computed to be stored."""
    found = re.search(r"^ran .* over ([\d,]+) views in", result.output, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def address(home: Home) -> str:
    return Hub(home.hub).short_address(open_store(home.store).fingerprint)


def forge(home: Home, mentor: str, view: int, block: int, change: Callable[[Any], Any]) -> None:
    """Other targets in one chunk, committed as any are: every checksum and seal is right."""
    store = open_store(home.store)
    stored = store.mentor(mentor)
    for path in stored.array.commits.glob(f"{view:06d}.{block:06d}.*"):
        path.unlink()
    rows = store.manifest.block_rows(block)
    index_B = store.index_N[rows]
    targets = np.ascontiguousarray(store_rows(store, mentor, view, index_B))
    commit_targets(
        stored, (view, block), change(targets), store.labels(index_B), store.manifest.block
    )


def store_rows(store: TargetStore, mentor: str, view: int, index_B: Any) -> Any:
    return store.targets(view, index_B, [mentor])[:, 0]


def test_a_second_home_computes_nothing_and_says_where_it_came_from(
    first: Home, home: Callable[[str], Home]
) -> None:
    second = home("second")
    output = fine(
        second.precompute(),
        "checkpoint of r14 from",
        "checkpoint of r8 from",
        f"took 24 chunks (12.0 kB) of r14, r8 from {address(first)}, 48 rows of them computed",
        "nothing to compute",
    )
    assert "ran " not in output
    assert second.chunks() == first.chunks()
    assert fine(second.kdcache("verify", second.store))
    again = fine(second.precompute("--push"), "nothing to compute", "nothing to push")
    assert "took" not in again
    assert "checkpoint of" not in again


def test_a_chunk_whose_bytes_changed_is_computed_and_mended_at_the_hub(
    first: Home, home: Callable[[str], Home]
) -> None:
    stored = open_store(first.store).mentor("r14")
    record = stored.commits[1, 2]
    (damaged,) = first.hub.glob(f"chunks/{stored.identity}/000001.000002.*")
    flip(damaged)
    second = home("second")
    result = second.precompute()
    fine(
        result,
        "took 23 chunks",
        f"1 chunk of r14 at {first.hub} is damaged: view 1, block 2, its CRC32C differs",
        "it is computed here",
    )
    assert ran_over(result) == ROWS_A_BLOCK
    assert second.chunks() == first.chunks()
    third = home("third")
    fine(third.precompute("--push"), "23 chunks", "is damaged")
    assert damaged.read_bytes()[:-4] == first_bytes(first, "r14", 1, 2)
    fourth = home("fourth")
    fine(fourth.precompute(), "took 24 chunks", "nothing to compute")
    assert record.sha256 in damaged.name


def first_bytes(home: Home, mentor: str, view: int, block: int) -> bytes:
    path = open_store(home.store).mentor(mentor).array.chunk(view, block)
    return path.read_bytes()[:-4]


@pytest.mark.parametrize("encoder", ["float16", "float32", "sqrt8-zstd"])
def test_a_consistent_forgery_is_noticed_and_only_that_chunk_computed(
    home: Callable[[str], Home], encoder: str
) -> None:
    first = home("first")
    for name in ("r14", "r8"):
        first.add_mentor(name)
        push_mentor(name, str(first.hub), dataset="digits", checkpoint=first.add_mentor(name))
    fine(first.kdcache(*plain_arguments(first), "--encoder", encoder))
    honest = first.chunks()
    forge(first, "r14", 2, 3, lambda targets: targets[:, ::-1].copy())
    assert first.chunks() != honest
    fine(first.kdcache("verify", first.store))  # nothing but the mentor can tell
    push_store(first.store, str(first.hub))
    second = home("second")
    result = second.precompute()
    fine(
        result,
        "took 23 chunks",
        f"1 chunk of r14 at {first.hub} is not what the mentor says: view 2, block 3, sample ",
        "it is computed here",
        "tell who looks after it",
    )
    assert ran_over(result) == ROWS_A_BLOCK
    assert second.chunks() == honest


def plain_arguments(home: Home, mentors: str = "r14,r8", views: int = VIEWS) -> tuple[object, ...]:
    return (
        *("precompute", "--dataset", "digits", "--samples", SAMPLES, "--views", views),
        *("--mentors", mentors, "--store", home.store, "--device", "cpu", "--batch-size", 64),
    )


def test_a_record_that_excuses_any_error_is_not_believed(home: Callable[[str], Home]) -> None:
    """Targets that were encoded anew may be off by what their record says: none is taken."""
    first = home("first")
    for name in ("r14", "r8"):
        first.add_mentor(name)
    fine(first.kdcache(*plain_arguments(first)))
    store = open_store(first.store)
    stored = store.mentor("r8")
    for path in stored.array.commits.glob("000000.000001.*"):
        path.unlink()
    rows = store.manifest.block_rows(1)
    wrong = np.full((ROWS_A_BLOCK, 10), np.log(0.1), dtype=np.float32)
    sums = {"absolute": 1.0, "max_absolute": 1e9, "measured_rows": 25.0}
    commit_targets(stored, (0, 1), wrong, store.labels_N[rows], store.manifest.block, sums)
    push_store(first.store, str(first.hub))
    second = home("second")
    for name in ("r14", "r8"):
        second.add_mentor(name)
    result = second.precompute()
    fine(result, f"1 chunks of r8 at {first.hub} were encoded anew", "took 23 chunks")
    assert ran_over(result) == ROWS_A_BLOCK


def test_what_is_there_in_part_is_taken_and_the_rest_offered_back(
    home: Callable[[str], Home],
) -> None:
    first, second, third = home("first"), home("second"), home("third")
    for one in (first, second, third):
        one.add_mentor("r14")
        one.add_mentor("r8")
    fine(first.precompute("--push", mentors="r8", views=2), "pushed 8 chunks")
    result = second.precompute("--push")
    fine(result, "took 8 chunks", "pushed 16 chunks", "has nothing of r14 for these views")
    assert ran_over(result) == 3 * SAMPLES
    fine(third.precompute(), "took 24 chunks", "nothing to compute")
    assert third.chunks() == second.chunks()


def test_what_lies_here_already_is_not_taken(first: Home, home: Callable[[str], Home]) -> None:
    second = home("second")
    second.add_mentor("r8")
    fine(second.kdcache(*plain_arguments(second, "r8", 2)))
    fine(second.precompute(), "r8: 8 chunks reused, 4 to take", "took 16 chunks", "nothing to comp")
    assert second.chunks() == first.chunks()


def test_a_dry_run_says_all_and_writes_nothing(first: Home, home: Callable[[str], Home]) -> None:
    before = {path: path.read_bytes() for path in first.hub.rglob("*") if path.is_file()}
    second = home("second")
    output = fine(
        second.precompute("--dry-run", views=4),
        f"to take from {address(first)}: 24 chunks of r14, r8, 12.0 kB, after 24 rows",
        "r14: 0 chunks reused, 12 to take from the hub, 4 to compute",
        "checkpoint of r8 from",
        "nothing written",
    )
    assert "took" not in output
    assert not second.root.exists() or not list(second.root.rglob("*"))
    assert before == {path: path.read_bytes() for path in first.hub.rglob("*") if path.is_file()}


def test_another_checkpoint_is_said_and_not_taken(first: Home, home: Callable[[str], Home]) -> None:
    second = home("second")
    second.add_mentor("r14", seed=1)
    theirs, ours = (
        load_mentor("r14", open_dataset("digits"), h.root / "mentors/digits/resnet14.safetensors")
        for h in (first, second)
    )
    result = second.precompute("--push")
    fine(
        result,
        f"{first.hub} has r14 of another checkpoint ({theirs.checkpoint_sha256[:12]}..): not "
        f"taken; here is {ours.checkpoint_sha256[:12]}..",
        "took 12 chunks",
        "pushed 12 chunks",
    )
    assert ran_over(result) == VIEWS * SAMPLES
    for one in (home("third"), home("fourth")):  # each finds its own at the hub
        one.add_mentor("r14", seed=1 if one.root.name == "third" else 0)
        fine(one.precompute(), "took 24 chunks", "nothing to compute")
        same = second if one.root.name == "third" else first
        assert one.chunks() == same.chunks()


def test_of_several_checkpoints_that_of_the_targets_is_taken(
    first: Home, home: Callable[[str], Home]
) -> None:
    other = home("other").add_mentor("r14", seed=1)
    push_mentor("r14", str(first.hub), dataset="digits", checkpoint=other)
    fine(home("second").precompute(), "took 24 chunks", "nothing to compute")
    result = home("third").precompute("--view-seed", 1)  # the hub has no targets to decide by
    assert result.exit_code == 2
    assert "has 2 checkpoints of mentor 'r14' for digits" in result.output
    assert "--sha" in result.output


def test_run_shape_and_encoder_are_the_hubs_where_nothing_is_asked(
    home: Callable[[str], Home],
) -> None:
    first, second, third = home("first"), home("second"), home("third")
    for one in (first, second, third):
        one.add_mentor("r8")
    options = ("--samples", SAMPLES, "--views", 2, "--dataset", "digits", "--device", "cpu")
    reuse = ("precompute", *options, "--mentors", "r8", "--hub", first.hub)
    fine(
        first.kdcache(
            *reuse, "--store", first.store, "--encoder", "residual", "--batch-size", 128, "--push"
        ),
        "pushed 8 chunks",
    )
    fine(second.kdcache(*reuse, "--store", second.store), "took 8 chunks", "nothing to compute")
    assert second.chunks() == first.chunks()
    encoders = [open_store(one.store).mentor("r8").encoder for one in (first, second)]
    assert encoders[0] == encoders[1]
    result = third.kdcache(
        *reuse, "--store", third.store, "--encoder", "float16", "--batch-size", 64
    )
    output = fine(result, "made otherwise", "batch 128, here 64", "encoder residual, here float16")
    assert "took" not in output
    assert ran_over(result) == 2 * SAMPLES


def test_an_encoder_with_too_coarse_levels_is_not_adopted(
    home: Callable[[str], Home], digits: ImageDataset
) -> None:
    """Within its own bound anything would do: three levels for all that a mentor can say."""
    first, second = home("first"), home("second")
    coarse = Residual(
        levels=Levels(fine=0.5, coarse=0.5, knee=255), table=bytes(10), num_classes=10
    )
    mentor = load_mentor("r8", digits, first.add_mentor("r8"))
    job = kdcache.PrecomputeJob(
        digits, [mentor], store=first.store, views=1, batch_size=64, encoders={"r8": coarse}
    )
    push_store(job.run().store, str(first.hub))
    second.add_mentor("r8")
    result = second.precompute(mentors="r8", views=1)
    output = fine(result, "r8 by residual at a mean KL of", "not taken", "float16")
    assert "took" not in output
    assert ran_over(result) == SAMPLES


def test_features_are_taken_where_they_are_asked_for_and_else_not(
    home: Callable[[str], Home],
) -> None:
    first, second, third = home("first"), home("second"), home("third")
    for one in (first, second, third):
        one.add_mentor("r8")
    fine(first.precompute("--push", "--features", mentors="r8"), "pushed 24 chunks")
    fine(second.precompute(mentors="r8"), "took 12 chunks", "nothing to compute")
    assert open_store(second.store).kinds("r8") == ("logits",)
    fine(third.precompute("--features", mentors="r8"), "took 24 chunks", "nothing to compute")
    assert third.chunks() == first.chunks()


def test_a_run_that_is_stopped_goes_on(first: Home, home: Callable[[str], Home]) -> None:
    second = home("second")
    dataset = open_dataset("digits", samples=SAMPLES)

    def make() -> ReuseJob:
        return ReuseJob(
            dataset, ["r14", "r8"], str(first.hub), store=second.store, views=VIEWS, device="cpu"
        )

    second.kdcache("--help")  # its home, from now on
    assert make().take(should_stop=lambda: True).stopped
    polls = iter(range(6))
    reuse = make()
    taken = reuse.take(should_stop=lambda: next(polls, None) is None)
    assert taken.stopped
    there = len(list(second.store.glob("mentors/*/logits/commits/*.json")))
    reuse = make()
    assert sum(map(len, reuse.takeable.values())) == 24 - there
    assert not reuse.take().stopped
    assert reuse.run().num_pixels == 0
    assert second.chunks() == first.chunks()


def test_where_there_is_no_hub(
    first: Home, home: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = home("second")
    second.hub = second.root / "nowhere"
    refused = second.precompute()
    assert refused.exit_code == 2
    assert "there is no hub at" in refused.output
    assert "--no-hub" in refused.output
    assert "KDCACHE_HUB" in refused.output
    no_patience(monkeypatch)
    monkeypatch.setenv("KDCACHE_HUB", "http://127.0.0.1:9/hub")
    second.add_mentor("r8")
    arguments = plain_arguments(second, "r8", 1)
    unreachable = second.kdcache(*arguments)
    assert unreachable.exit_code == 1, unreachable.output
    assert "--no-hub" in unreachable.output
    fine(second.kdcache(*arguments, "--no-hub"), "ran r8")
    both = second.kdcache(*arguments, "--no-hub", "--hub", first.hub)
    assert both.exit_code == 2
    without = second.kdcache(*arguments, "--no-hub", "--push")
    assert without.exit_code == 2
    assert "--push needs a hub" in without.output


def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.remote.patience.WAITS", (0.01,) * 2)
    monkeypatch.setenv("KDCACHE_PATIENCE", "0")


def test_a_hub_that_dies_meanwhile(
    first: Home, home: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken is kept; the same command goes on, with the hub or without it."""
    no_patience(monkeypatch)
    second, third = home("second"), home("third")
    with serving(first.hub.parent) as server:
        url = f"{server.url}/{first.hub.name}"
        for one in (second, third):
            one.add_mentor("r14")
            one.add_mentor("r8")
            server.fail("/chunks/", *[only_some] * 400)
            died = one.kdcache(*plain_arguments(one), "--hub", url)
            assert died.exit_code == 1, died.output
            assert "--no-hub" in died.output
            server.fail("/chunks/")
        there = len([name for name in second.chunks() if "/commits/" in name])
        assert 0 < there < 24
        fine(second.kdcache(*plain_arguments(second), "--hub", url), f"took {24 - there} chunks")
    fine(third.kdcache(*plain_arguments(third)), "ran r14, r8")
    assert second.chunks() == third.chunks() == first.chunks()


def only_some(handler: Handler) -> None:
    """Of one view the chunks, of others nothing."""
    if "/000000." in handler.path:
        SimpleHTTPRequestHandler.do_GET(handler)
    else:
        handler.send_error(503)


def test_a_mentor_that_is_nowhere(first: Home, home: Callable[[str], Home]) -> None:
    refused = home("second").precompute(mentors="r20")
    assert refused.exit_code == 2
    assert f"{first.hub} has none either.\nFour ways to get one" in refused.output
    assert "teammate" not in refused.output
    assert f"kdcache push-mentor r20 --dataset digits --hub {first.hub}" in refused.output


def test_a_push_that_fails_leaves_the_store_and_says_how_to_go_on(
    home: Callable[[str], Home],
) -> None:
    first = home("first")
    first.add_mentor("r8")
    first.hub.mkdir()
    (first.hub / "chunks").write_text("a file where a folder is to be")
    (first.hub / "hub.json").write_text("x")
    refused = first.precompute("--push", mentors="r8")
    assert refused.exit_code in (1, 2), refused.output  # before anything is computed
    assert "ran r8" not in refused.output
    (first.hub / "hub.json").write_bytes(marker())
    failed = first.precompute("--push", mentors="r8")
    assert failed.exit_code == 1, failed.output
    assert f"kdcache push {first.store} {first.hub} --mentors r8" in failed.output
    assert open_store(first.store).mentor("r8").complete_views(BLOCKS) == [0, 1, 2]


def test_a_config_gives_these_options_too(first: Home, home: Callable[[str], Home]) -> None:
    second = home("second")
    config = first.root / "precompute.toml"
    config.write_text(
        f'dataset = "digits"\nmentors = ["r14", "r8"]\nsamples = {SAMPLES}\nviews = {VIEWS}\n'
        f"store = {json.dumps(str(second.store))}\nhub = {json.dumps(str(first.hub))}\n"
        'push = true\nbatch-size = 64\ndevice = "cpu"\n'
    )
    output = second.kdcache("precompute", "--config", config)
    fine(output, "took 24 chunks", "nothing to compute", "nothing to push")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["float16", "residual"])
def test_real_mentors(
    home: Callable[[str], Home], real_data: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """CIFAR-100 and trained mentors: one chunk forged, with targets of another view of the same."""
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 128)
    first, second = home("first"), home("second")
    options = (
        *("precompute", "--mentors", "r20,r56", "--samples", 500, "--views", 2),
        *("--device", "cpu", "--data-dir", real_data, "--batch-size", 128),
    )
    fine(first.kdcache(*options, "--store", first.store, "--encoder", encoder))
    honest = first.chunks()
    others = open_store(first.store).targets(0, open_store(first.store).index_N[:125], ["r56"])
    forge(first, "r56", 1, 0, lambda targets: np.ascontiguousarray(others[:, 0]))
    push_store(first.store, str(first.hub))
    for name in ("r20", "r56"):
        fine(first.kdcache("push-mentor", name, "--hub", first.hub))
    monkeypatch.delenv("KDCACHE_DATA")  # where the checkpoints are
    result = second.kdcache(*options, "--store", second.store, "--hub", first.hub)
    fine(
        result,
        "checkpoint of r56 from",
        "took 15 chunks",
        f"1 chunk of r56 at {first.hub} is not what the mentor says: view 1, block 0, sample ",
    )
    assert ran_over(result) == 125
    assert second.chunks() == honest


def test_a_hub_of_the_environment_may_be_new(
    home: Callable[[str], Home], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guide's first steps: nothing is set up but the variable."""
    made = home("first")
    made.add_mentor("r8")
    monkeypatch.setenv("KDCACHE_HUB", str(hub))
    sizes = ("--dataset", "digits", "--samples", SAMPLES, "--views", VIEWS, "--store", made.store)
    fine(made.kdcache("precompute", "--mentors", "r8", *sizes), f"{hub} is no hub yet", "ran r8")
    fine(made.kdcache("push", made.store), f"kdcache pull {hub}/stores/")
    fine(made.kdcache("push-mentor", "r8", "--dataset", "digits"))
    fine(made.kdcache("list"), "digits (train)", "mentor r8 for digits")
    refused = made.kdcache("precompute", "--mentors", "r8", *sizes, "--hub", hub / "mistyped")
    assert refused.exit_code == 2
    assert "there is no hub at" in refused.output
