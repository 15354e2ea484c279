"""The torture at small sizes; and that it notices a library which does not keep its word."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from benchmarks.torture import __main__ as command
from benchmarks.torture import crashes, damage, kills, power_cuts, races
from benchmarks.torture.tally import Tally
from benchmarks.torture.world import Truth, World, clear, scratch, undisturbed
from kdcache import durable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="disturbs Linux's own calls")
SCENES = range(11)
FEW, MANY = 24, 5  # every so manyeth operation


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with scratch() as path:
        yield path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["float16", "float32", "sqrt8-zstd"])
def encoded(request: pytest.FixtureRequest, folder: Path) -> Truth:
    world = World(encoder=request.param)
    return undisturbed(world, clear(folder / request.param / "store"))


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return undisturbed(World(), clear(folder / "truth" / "store"))


@pytest.fixture(scope="module")
def with_features(folder: Path) -> Truth:
    return undisturbed(World(features=True), clear(folder / "with_features" / "store"))


def require_ok(tally: Tally, rounds: int = 1) -> None:
    assert tally.ok, "\n".join([tally.line(), *tally.problems])
    assert tally.rounds >= rounds


def crash(truth: Truth, number: int, folder: Path, step: int) -> Tally:
    return crashes.crash_everywhere(truth, crashes.scenes(truth)[number], folder, step)


@pytest.mark.parametrize("number", SCENES)
def test_killed(number: int, truth: Truth, folder: Path) -> None:
    require_ok(crash(truth, number, folder, FEW))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_killed_with_features(number: int, with_features: Truth, folder: Path) -> None:
    scene = crashes.scenes_of_features(with_features)[number]
    require_ok(crashes.crash_everywhere(with_features, scene, folder, FEW), rounds=3)


@pytest.mark.parametrize("number", range(1, 4))
def test_power_cut_with_features(number: int, with_features: Truth, folder: Path) -> None:
    scene = crashes.scenes_of_features(with_features)[number]
    require_ok(power_cuts.cut_everywhere(with_features, scene, folder, seed=0, step=FEW), rounds=3)


def test_damaged_features(with_features: Truth, folder: Path) -> None:
    ways = (damage.flip_bit, damage.truncate)
    require_ok(damage.damage(with_features, ways, folder, seed=4, count=40), rounds=40)
    require_ok(damage.damage(with_features, (damage.delete,), folder, seed=4, count=20), rounds=20)


@pytest.mark.slow
@pytest.mark.parametrize("number", SCENES)
def test_killed_often(number: int, truth: Truth, folder: Path) -> None:
    require_ok(crash(truth, number, folder, MANY), rounds=5)


@pytest.mark.parametrize("number", SCENES)
def test_power_cut(number: int, truth: Truth, folder: Path) -> None:
    scene = crashes.scenes(truth)[number]
    require_ok(power_cuts.cut_everywhere(truth, scene, folder, seed=0, step=FEW), rounds=5)
    require_ok(power_cuts.cut_after_kill(truth, scene, folder, step=FEW))


@pytest.mark.slow
@pytest.mark.parametrize("number", SCENES)
def test_power_cut_often(number: int, truth: Truth, folder: Path) -> None:
    scene = crashes.scenes(truth)[number]
    require_ok(power_cuts.cut_everywhere(truth, scene, folder, seed=1, step=MANY), rounds=5)
    require_ok(power_cuts.cut_after_kill(truth, scene, folder, step=MANY))


def test_killed_at_random_moments(folder: Path) -> None:
    world = World(encoder="sqrt8-zstd", samples=200, block=50, network="r8", views=2)
    truth = undisturbed(world, clear(folder / "r8" / "store"))
    require_ok(kills.kill_at_random(truth, folder, seed=0, kills=4), rounds=4)


def test_damaged(encoded: Truth, folder: Path) -> None:
    flips = (damage.flip_bit, damage.truncate)
    require_ok(damage.damage(encoded, flips, folder, seed=2, count=40), rounds=40)
    require_ok(damage.damage(encoded, (damage.delete,), folder, seed=2, count=20), rounds=20)


@pytest.mark.slow
def test_damaged_often(encoded: Truth, folder: Path) -> None:
    flips = (damage.flip_bit, damage.truncate)
    require_ok(damage.damage(encoded, flips, folder, seed=3, count=300), rounds=300)


@pytest.mark.parametrize("name", races.RACES)
def test_races(name: str, truth: Truth, folder: Path) -> None:
    require_ok(races.race(truth, name, races.RACES[name], folder, seed=0, rounds=2), rounds=2)


def test_one_heals_while_another_computes(truth: Truth, folder: Path) -> None:
    require_ok(races.race_with_healing(truth, folder, seed=0, rounds=2), rounds=2)


def test_some_of_those_at_once_are_killed(truth: Truth, folder: Path) -> None:
    writers = [races.ALL] * 4
    require_ok(races.race(truth, "killed", writers, folder, seed=0, rounds=2, killed=2), rounds=2)


def test_it_notices_names_that_are_not_durable(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "fsync_folder", lambda folder: None)
    scene = crashes.scenes(truth)[1]
    assert power_cuts.cut_everywhere(truth, scene, folder, seed=0, step=FEW).lost


def test_it_notices_content_that_is_not_durable(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_aside(
        path: Path, parts: Iterable[durable.Bytes], *, within: Path | None = None
    ) -> Path:
        durable.make_folder(path.parent, within=within)
        temporary = durable.aside(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"".join(bytes(part) for part in parts))
        os.close(descriptor)
        return temporary

    monkeypatch.setattr(durable, "write_aside", write_aside)
    scene = crashes.scenes(truth)[1]
    assert power_cuts.cut_everywhere(truth, scene, folder, seed=0, step=FEW).lost


def test_it_notices_what_killed_writers_leave(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "is_aside", lambda name: False)
    tally = crash(truth, 3, folder, step=4)
    assert tally.healed < tally.rounds
    assert any(".tmp should not be there" in problem for problem in tally.problems)


def test_it_notices_what_is_believed_wrongly(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_payload(buffer: memoryview, path: Path, checksum: int, checked: object) -> None:
        buffer[:] = path.read_bytes()[: len(buffer)]

    monkeypatch.setattr("kdcache.store.chunks.read_payload", read_payload)
    tally = damage.damage(truth, (damage.flip_bit,), folder, seed=0, count=20)
    assert tally.wrong
    assert not tally.ok


def test_it_notices_what_is_computed_again(
    truth: Truth, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.store.committing._intact_record", lambda *_: None)
    monkeypatch.setattr("kdcache.store.stored_mentor.StoredMentor.damage", lambda *_: "doubted")
    tally = crash(truth, 1, folder, step=FEW)
    assert tally.lost
    assert any("computed again" in problem for problem in tally.problems)


def test_command_prints_a_table_and_fails_for_what_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tallies = [Tally(what="a part", rounds=20, healed=20)]
    monkeypatch.setitem(command.PARTS, "races", lambda folder, seed, quick: iter(tallies))
    result = CliRunner().invoke(command.main, ["--only", "races", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "seed 3" in result.output
    assert [line.split() for line in result.output.splitlines()[-2:]] == [
        ["a", "part", "20", "0", "0", "20", "0.0"],
        ["all", "20", "0", "0", "20", "0.0"],
    ]
    tallies.append(Tally(what="worse", rounds=1, healed=1, lost=2, problems=["gone"] * 12))
    result = CliRunner().invoke(command.main, ["--only", "races"])
    assert result.exit_code == 1
    assert "    gone\n    and 2 more\n" in result.output


def test_help_documents_every_option() -> None:
    output = CliRunner().invoke(command.main, ["--help"]).output
    for option in command.main.params:
        assert isinstance(option, click.Option)
        assert option.help
        assert option.opts[0] in output
