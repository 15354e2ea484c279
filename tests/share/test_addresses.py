"""What is said to who names a hub, or a store of one, wrongly."""

from pathlib import Path

import pytest

from kdcache.remote import is_url
from kdcache.share import push_store
from kdcache.store import is_elsewhere
from tests.share.test_pushing import invoke
from tests.store.small import SmallStore, make_store


@pytest.fixture
def hub(small: SmallStore, hub_folder: Path) -> str:
    push_store(small.root, str(hub_folder))
    return str(hub_folder)


@pytest.mark.parametrize("tail", ["880f", "", "+abc", "no such", "880F880F880F"])
@pytest.mark.parametrize("command", [["inspect"], ["pull"], ["train-student", "--store"]])
def test_a_short_or_mistyped_address(
    hub: str, small: SmallStore, tail: str, command: list[str]
) -> None:
    fingerprint = small.open().fingerprint
    tail = fingerprint + tail if tail == "+abc" else tail
    for place in (f"{hub}/stores/{tail}", f"file://{hub}/stores/{tail}"):
        said = invoke(*command, place, exit_code=2)
        assert f"no address of a store at the hub {hub}:" in said
        assert "at least 8 digits that begin it (and behind a +, of an identity). " in said
        assert f"There are {fingerprint[:16]}" in said
        assert "file://" not in said


def test_no_store_is_made_in_a_hub_by_a_mistyped_address(hub: str) -> None:
    assert is_elsewhere(f"{hub}/stores/880f")
    assert not is_elsewhere(Path(hub).parent / "store" / "stores" / "880f")


def test_a_folder_is_shown_as_a_folder(hub: str, tmp_path: Path) -> None:
    push_store(make_store(tmp_path / "other", views=1, num_samples=12).root, hub)
    said = invoke("inspect", hub, exit_code=2)
    assert f"{hub} is a hub of 2 stores" in said
    assert "file://" not in said
    said = invoke("inspect", f"{hub}/stores/{'0' * 64}", exit_code=2)
    assert f"{hub} has no store of the views" in said
    assert "file://" not in said


def test_a_protocol_alone_is_no_hub() -> None:
    assert is_url("s3://")
    assert "s3::" not in invoke("list", "memory://", exit_code=2)


def test_what_is_no_hub_is_told_what_it_is(hub: str, small: SmallStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    fingerprint = small.open().fingerprint
    for place, what in (
        (small.root, f"it is a store. See what it holds with: kdcache inspect {small.root}"),
        (f"{hub}/stores/{fingerprint[:16]}", f"it is in the hub {hub}. See"),
        (tmp_path / "file", "it is a file"),
        (
            tmp_path / "new",
            f"it has no index.json. Begin one with: kdcache push STORE {tmp_path / 'new'}",
        ),
    ):
        assert f"there is no hub at {place}: {what}" in invoke("list", place, exit_code=2)


def test_export_tells_the_address_that_it_reads(hub_folder: Path, tmp_path: Path) -> None:
    push_store(make_store(tmp_path / "coarse", encoder="sqrt8").root, str(hub_folder))
    said = invoke("export", hub_folder, tmp_path / "new", "--encoder", "float32", exit_code=2)
    assert f"{hub_folder}/stores/" in said
    assert "holds mentor 'r20' as sqrt8" in said
    assert "mirrors" not in said


def test_a_mentor_is_not_pushed_where_nothing_can_be_written() -> None:
    said = invoke("push-mentor", "r8", "--hub", "http://127.0.0.1:1/x", exit_code=2)
    assert "http://127.0.0.1:1/x" in said
    assert "only" in said


def test_a_hub_may_be_an_argument_or_an_option(
    hub: str, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDCACHE_HUB", raising=False)
    config = tmp_path / "hub.toml"
    config.write_text(f'hub = "{tmp_path / "other"}"\n')
    for words, said in (
        (["push", small.root], "24 of them are at"),
        (["list"], "small (train)"),
        (["pull", "--store", tmp_path / "new"], "train from it with"),
    ):
        for named in (["--hub", hub], [hub], [hub, "--hub", hub]):
            assert said in invoke(*words, *named)
            assert said in invoke(*words, *named, "--config", config)
        refused = invoke(*words, hub, "--hub", "elsewhere", exit_code=2)
        assert f"two hubs are named, {hub} and --hub elsewhere" in refused
    heading = invoke("list", hub).splitlines()[2].split()
    assert heading == ["mentor", "top-1", "views", "bytes", "encoder", "checkpoint"]
    assert f"no hub at {tmp_path / 'other'}" in invoke("list", "--config", config, exit_code=2)
