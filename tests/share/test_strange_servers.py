"""Hubs at servers that are broken, or mean harm."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdcache
from kdcache import homes
from kdcache.copying import CopyJob
from kdcache.errors import DamagedTargets, KdcacheError, StoreError
from kdcache.share import Hub, PushJob
from kdcache.store import verify_store
from tests.remote.serving import Server, serving
from tests.store.small import SmallStore


@pytest.fixture
def server(
    small: SmallStore, hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """Serves a hub with the small store in it."""
    monkeypatch.setenv("KDCACHE_PATIENCE", "1")
    PushJob(small.root, str(hub_folder)).run()
    with serving(hub_folder) as server:
        yield server


def store_url(server: Server, small: SmallStore) -> str:
    return f"{server.url}/stores/{small.open().fingerprint}"


def first_view(url: str) -> None:
    store = kdcache.open_store(url)
    store.targets(0, store.index_N)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("/store.json", "more than 67,108,864 bytes"),
        ("/lists/", "more than 260 bytes"),
        ("/chunks/", "more than 164 bytes"),
    ],
)
def test_bytes_without_end_are_cut_off(
    server: Server, small: SmallStore, part: str, told: str
) -> None:
    server.fail(part, *["endless"] * 100)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(KdcacheError, match=told):
        first_view(store_url(server, small))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**20  # kB: 1 GiB
    kept = sum(path.stat().st_size for path in homes.mirrors().rglob("*") if path.is_file())
    assert kept < 2**17


@pytest.mark.parametrize("part", ["/store.json", "/index.json"])
def test_a_page_is_not_taken_for_a_document(server: Server, small: SmallStore, part: str) -> None:
    server.fail(part, *["page"] * 100)
    place = store_url(server, small) if "store" in part else server.url
    with pytest.raises(StoreError, match=r"web page of 54 bytes arrived .*logging in"):
        kdcache.open_store(place)
    if "index" in part:
        with pytest.raises(StoreError, match="web page of 54 bytes arrived"):
            Hub(server.url).index()


def test_a_page_is_not_taken_for_a_chunk(server: Server, small: SmallStore, tmp_path: Path) -> None:
    server.fail("/chunks/", *["page"] * 1000)
    result = CopyJob(store_url(server, small), tmp_path / "pulled").run()
    assert len(result.damaged) == 24
    assert not result.num_chunks
    assert "a web page arrived" in result.damaged[0].reason
    assert not verify_store(tmp_path / "pulled").damaged


def test_many_damaged_chunks_do_not_make_the_document_be_read_for_each(
    server: Server, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.store.remote_hub_store.LOOKS", 10**6)
    server.fail("/chunks/", *[404] * 1000)
    result = CopyJob(store_url(server, small), tmp_path / "pulled").run()
    assert len(result.damaged) == 24
    assert sum("/store.json" in asked for asked in server.asked) <= 1 + 8  # threads at the start


def test_a_store_of_other_views_is_not_taken(server: Server, small: SmallStore) -> None:
    other = "0" * 64
    (Path(server.folder) / "stores" / small.open().fingerprint).rename(
        Path(server.folder) / "stores" / other
    )
    with pytest.raises(StoreError, match=r"describes the views .* No writer wrote it there"):
        kdcache.open_store(f"{server.url}/stores/{other}")
    with pytest.raises(DamagedTargets, match="describes the views"):
        Hub(server.url).gathered(other)
