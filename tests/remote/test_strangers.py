"""Servers that are broken, or mean harm: one clear error, nothing written elsewhere or taken."""

import resource
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdcache
from kdcache import homes
from kdcache.errors import DamagedTargets, KdcacheError, StoreError, UsageError
from kdcache.remote import shown_url
from kdcache.store import verify_store
from tests.remote.serving import Handler, Server
from tests.store.small import SmallStore, alter_attributes


def page(*links: str) -> Any:
    """A listing with these links beside the ones it has."""

    def answer(handler: Handler) -> None:
        listed = ["zarr.json", "r8/", "r20/", *links]
        content = "".join(f'<li><a href="{link}">{link}</a></li>\n' for link in listed)
        handler.answer(f"<html><body>{content}</body></html>".encode())

    return answer


def all_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_names_that_are_no_members_make_no_paths(
    small: SmallStore, server: Server, url: str, tmp_path: Path, kdcache_home: Path
) -> None:
    good = kdcache.open_store(url)
    outside = all_files(tmp_path) - {str(kdcache_home.relative_to(tmp_path))}
    server.fail(
        "/store/mentors/",
        page(
            "../../../evil/", "..", ".", "/etc/passwd", "//evil/x/", "http://evil/x/", ".hidden/",
            "__x/", "a%2F..%2F..%2Fb/", "a\\b/", "x" * 300, "%2e%2e/", "a b/", "C:evil/", "\x00/",
            "?C=N;O=D", "r8/../../x/", "javascript:x",
        ),
    )  # fmt: skip
    store = kdcache.open_store(url)
    assert store.mentors == good.mentors == ["r20", "r8"]
    assert all_files(tmp_path) == outside | {str(kdcache_home.relative_to(tmp_path))}
    np.testing.assert_array_equal(
        store.targets(0, store.index_N), small.open().targets(0, store.index_N)
    )


def test_absolute_links_and_links_of_other_servers_styles_are_names_too(
    small: SmallStore, server: Server, url: str
) -> None:
    def answer(handler: Handler) -> None:
        handler.answer(
            f"<A HREF='{url}/mentors/zarr.json'>m</A><a class=x href = \"/store/mentors/r8/\">"
            '<a href="./r20/">r20</a><a href="/store/">up</a>'.encode()
        )

    server.fail("/store/mentors/", answer)
    assert kdcache.open_store(url).mentors == ["r20", "r8"]


def test_a_server_that_lists_nothing_is_told_what_is_needed(server: Server, url: str) -> None:
    server.lists = False
    with pytest.raises(StoreError, match=r"does not list the folder .*403.*autoindex on"):
        kdcache.open_store(url)
    server.lists = True
    server.fail("/store/mentors/", "page")
    with pytest.raises(StoreError, match=r"does not list .*another page.*copy the store"):
        kdcache.open_store(url)


@pytest.mark.parametrize(
    "document", ["/store/zarr.json", "r8/zarr.json", "logits/zarr.json", "commits.json", ".0000"]
)
def test_a_page_is_not_taken_for_a_document(server: Server, url: str, document: str) -> None:
    server.fail(document, *["page"] * 100)
    with pytest.raises(StoreError, match=r"a web page of 54 bytes arrived .*DOCTYPE.*logging in"):
        kdcache.open_store(url)


@pytest.mark.parametrize("document", ["/store/zarr.json", "logits/zarr.json", "commits.json"])
def test_what_has_no_seal_is_told_with_its_url(
    small: SmallStore, server: Server, url: str, document: str
) -> None:
    server.fail(document, *[lambda handler: handler.answer(b"{}")] * 100)
    try:
        store = kdcache.open_store(url)
        found = kdcache.inspect_store(store)["problems"] or [
            str(stored.index_damage) for stored in store.sound_mentors
        ]
    except DamagedTargets as error:
        found = [str(error)]
    assert "2 bytes without a seal" in found[0]
    assert str(homes.mirrors()) not in found[0]


def test_what_is_no_store_says_so(server: Server, url: str) -> None:
    with pytest.raises(StoreError, match=f"{server.url}/other has no zarr.json: it is not the"):
        kdcache.open_store(f"{server.url}/other")
    with pytest.raises(StoreError, match=r"has no zarr\.json"):
        kdcache.open_store("memory://nothing/here")
    server.fail("zarr.json", 403)
    with pytest.raises(
        StoreError, match=r"zarr.json cannot be read: the server refuses access.*403.*\.netrc"
    ):
        kdcache.open_store(url)
    server.fail("zarr.json", 418)
    with pytest.raises(StoreError, match="the server answered 418"):
        kdcache.open_store(url)


def test_a_newer_format_is_refused_as_of_a_folder(small: SmallStore, url: str) -> None:
    alter_attributes(small.root / "zarr.json", lambda attributes: attributes.update(format=2))
    with pytest.raises(StoreError, match=f"{url} has store format 2, this version"):
        kdcache.open_store(url)


def first_view(url: str) -> None:
    store = kdcache.open_store(url)
    store.targets(0, store.index_N)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("/store/zarr.json", "more than 4,194,304 bytes"),
        ("commits.json", "more than 67,108,864 bytes"),
        (".0000", "more than 16,384 bytes"),
        ("/store/mentors/", "listing has more than 33,554,432 bytes"),
        ("index/c/0", "more than 260 bytes"),
        ("/c/0/0/0", "more than 1604 bytes"),
    ],
)
def test_bytes_without_end_are_cut_off(server: Server, url: str, part: str, told: str) -> None:
    server.fail(part, *["endless"] * 100)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(KdcacheError, match=told):
        first_view(url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**20  # kB: 1 GiB
    kept = sum(path.stat().st_size for path in homes.mirrors().rglob("*") if path.is_file())
    assert kept < 2**17


def test_more_documents_than_any_writer_made_are_refused(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.store.remote_store.MOST_DOCUMENTS", 50_000)
    with pytest.raises(StoreError, match="its documents have more than 50,000 bytes"):
        kdcache.open_store(url)


def test_too_many_mentors_are_refused(server: Server, url: str) -> None:
    server.fail("/store/mentors/", page(*[f"m{number}/" for number in range(1001)]))
    with pytest.raises(StoreError, match="more than 1,000 mentors"):
        kdcache.open_store(url)
    assert len(server.asked) == 2


def test_memory_follows_from_bytes_that_came_not_from_claims(
    small: SmallStore, server: Server, url: str
) -> None:
    """A view that is only claimed is not allocated: its chunks are fetched first."""
    store = kdcache.open_store(url)
    server.fail("/c/0/", *[404] * 1000)
    stream = kdcache.TargetStream(store, device="cpu")
    with (
        pytest.raises(DamagedTargets, match="the file is gone"),
        stream.view(0),
    ):
        pass
    assert not any(slot.is_made for slot in stream._slots)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://host/a/b/", "http://host/a/b"),
        ("http://user:secret@host:80/a", "http://user@host:80/a"),
        ("s3://bucket/store", "s3://bucket/store"),
        ("memory://store", "memory://store"),
        ("memory:///store", "memory://store"),
    ],
)
def test_a_url_is_shown_without_its_password(given: str, shown: str) -> None:
    assert shown_url(given) == shown


def test_passwords_stay_out_of_messages(server: Server) -> None:
    url = f"http://me:secret@127.0.0.1:{server.server_port}/store"
    store = kdcache.open_store(url)
    server.fail("/c/0/", *[500] * 1000)
    with pytest.raises(KdcacheError) as error:
        store.targets(0, store.index_N)
    assert "me@127.0.0.1" in str(error.value)
    assert "secret" not in str(error.value)
    assert "secret" not in store.address + str(store.root)


def test_addresses_that_cannot_be_read_say_why() -> None:
    with pytest.raises(UsageError, match=r"can have no \? or # part"):
        kdcache.open_store("http://127.0.0.1/store?token=1")
    with pytest.raises(StoreError, match=r"nope.*Protocol not known.*s3://"):
        kdcache.open_store("nope://bucket/store")


def test_a_protocol_that_is_not_installed_names_the_extra() -> None:
    if find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed")
    with pytest.raises(StoreError, match=r"s3fs.*pip install 'kdcache\[s3\]'"):
        kdcache.open_store("s3://bucket/store")


def test_verify_reads_every_byte_at_the_url(small: SmallStore, server: Server, url: str) -> None:
    sound = verify_store(url)
    assert sound == verify_store(small.root)
    assert sound.ok
    assert sound.chunks == 24
    chunk, record = small.array("r8").chunk(2, 1), next(small.array("r20").commits.iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-4] + b"1234")
    record.write_bytes(b"{}")
    damaged = verify_store(url)
    assert {damage.path for damage in damaged.damaged} == {
        f"{url}/{path.relative_to(small.root)}" for path in (chunk, record)
    }
    assert len(verify_store(small.root).damaged) == 2
    assert not any(homes.mirrors().iterdir())  # nothing of it is kept
