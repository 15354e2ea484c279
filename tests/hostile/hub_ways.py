"""Every way into a hub, as a user goes: the library's calls and the command lines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdcache.copying import CopyJob
from kdcache.errors import KdcacheError, StoreMismatch
from kdcache.inspection import inspect_store
from kdcache.remote import Connection
from kdcache.share import Hub, PushJob
from kdcache.share.hub_card import hub_card
from kdcache.store import TargetStore, open_store, verify_store
from kdcache.store.hub_documents import fetch_document
from kdcache.stream import TargetStream
from kdcache.train import train_student
from tests.hostile.good import SAMPLES, VIEWS, Good
from tests.hostile.ways import Way, Wrong, as_command, as_library, require_plain_text

MOST_ADDRESSES = 3


class Unshown(Exception):
    """A push that ended well is not what the hub shows."""


def _addresses(root: Path) -> list[str]:
    """Of the stores whose folders are there; the good one's always."""
    found = sorted(path.name for path in (root / "stores").glob("*") if len(path.name) == 64)
    return [f"{root}/stores/{name}" for name in found[:MOST_ADDRESSES]]


def _each(way: Callable[[str], object]) -> Callable[[Path, Good, Path], object]:
    """The same of every store there; the first refusal ends up as the answer."""

    def run(root: Path, good: Good, folder: Path) -> object:
        refused = None
        for address in _addresses(root):
            try:
                way(address)
            except KdcacheError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        return None

    return run


def _open_hub(root: Path, good: Good, folder: Path) -> object:
    try:
        return open_store(root)
    except KdcacheError as error:
        if "is a hub of 2 stores" in str(error):
            return None
        raise


def _targets(address: str) -> object:
    store = open_store(address)
    refused = None
    for stored in store.sound_mentors:
        try:
            store.targets(1, store.index_N[[0, -1]], [stored.manifest.name])
        except KdcacheError as error:
            refused = error
    if refused is not None:
        raise refused
    return list(store.target_errors.values())


def _inspect(address: str) -> object:
    return json.dumps(inspect_store(open_store(address)), allow_nan=False)


def _verify(address: str) -> object:
    found = verify_store(address)
    if found.damaged:
        raise KdcacheError(f"{str(found.damaged)[:500]!a}")
    return found


def _stream(address: str) -> object:
    stream = TargetStream(address, device="cpu")
    with stream.view(stream.views[0]) as targets:
        return targets[stream.store.index_N[:3]]


def _index(root: Path, good: Good, folder: Path) -> object:
    hub = Hub(str(root))
    index = hub.index()
    card = hub_card(index, hub.url)
    require_plain_text(card.replace("\n", ""))
    if any(mark in card for mark in ("<", "`touch", "](http", "javascript")):
        raise Wrong(f"markup in the card: {card[:300]!r}")
    return json.dumps(index.to_json(), allow_nan=False)


def _pull(root: Path, good: Good, folder: Path) -> object:
    """Each store into a folder of its own: what arrives is what was committed."""
    refused = None
    for number, address in enumerate(_addresses(root)):
        try:
            result = CopyJob(address, folder / f"pulled-{number}").run()
            if verify_store(folder / f"pulled-{number}").damaged:
                raise Wrong("what was pulled is damaged")
            if result.damaged:
                raise KdcacheError(str(result.damaged[0]))
        except KdcacheError as error:
            refused = error
    if refused is not None:
        raise refused
    return None


def _pull_into_mine(root: Path, good: Good, folder: Path) -> object:
    """Into a store that has something already, which stays as it is."""
    mine = folder / "mine"
    shutil.copytree(good.root, mine)
    shutil.rmtree(mine / "mentors" / "r14")
    before = open_store(mine).mentor("r8").commits
    refused = None
    for address in _addresses(root):
        try:
            CopyJob(address, mine).run()
        except StoreMismatch:
            pass
        except KdcacheError as error:
            refused = error
    if open_store(mine).mentor("r8").commits != before or verify_store(mine).damaged:
        raise Wrong("the victim's own store was harmed")
    if refused is not None:
        raise refused
    return None


def _train(root: Path, good: Good, folder: Path) -> object:
    refused = None
    for number, address in enumerate(_addresses(root)):
        try:
            list(
                train_student(
                    student="r8", store=address, epochs=1, batch_size=20, device="cpu",
                    out=str(folder / f"run-{number}"), mentors=("r14",),
                )
            )  # fmt: skip
        except KdcacheError as error:
            refused = error
    if refused is not None:
        raise refused
    return None


def push_shown(root: Path, good: Good, folder: Path) -> object:
    """The victim's push; when it ends well, everything that he has is there to be seen."""
    result = PushJob(good.root, str(root)).run()
    _require_shown(root, open_store(good.root))
    return result


def _require_shown(root: Path, mine: TargetStore) -> None:
    found = Hub(str(root)).gathered(mine.fingerprint)
    if found is None:
        raise Unshown("no store")
    for stored in mine.sound_targets:
        array = found.arrays.get(stored.identity)
        if array is None or not array.records.keys() >= stored.commits.keys():
            raise Unshown(f"{stored.title} is not shown")
    if mine.fingerprint not in Hub(str(root)).index().stores:
        raise Unshown("the index does not know it")
    store = open_store(f"{root}/stores/{mine.fingerprint}")
    if not {stored.title for stored in mine.sound_targets} <= {
        s.title for s in store.sound_targets
    }:
        raise Unshown(f"{store.target_errors}"[:300])
    np.testing.assert_array_equal(store.index_N, mine.index_N)


def _each_document(root: Path, good: Good, folder: Path) -> object:
    """As another program might: every document of the hub by its name."""
    connection = Connection(root.as_uri())
    refused = None
    for path in sorted(root.glob("**/*.json"))[:20]:
        try:
            fetch_document(connection, path.relative_to(root).as_posix())
        except KdcacheError as error:
            refused = error
    if refused is not None:
        raise refused
    return None


HUB_READING: dict[str, Way] = {
    "open the hub": as_library(_open_hub),
    "open": as_library(_each(open_store)),
    "targets": as_library(_each(_targets)),
    "inspect_store": as_library(_each(_inspect)),
    "verify_store": as_library(_each(_verify)),
    "stream": as_library(_each(_stream)),
    "index": as_library(_index),
    "documents": as_library(_each_document),
    "pull": as_library(_pull),
    "pull into mine": as_library(_pull_into_mine),
    "kdcache list": as_command(lambda root, good, folder: ["list", root]),
    "kdcache list --json": as_command(lambda root, good, folder: ["list", root, "--json"]),
    "kdcache inspect": as_command(lambda root, good, folder: ["inspect", _first(root)]),
    "kdcache verify --json": as_command(
        lambda root, good, folder: ["verify", _first(root), "--json"]
    ),
}
HUB_USING: dict[str, Way] = {
    "train_student": as_library(_train),
    "kdcache pull": as_command(
        lambda root, good, folder: ["pull", _first(root), "--store", folder / "copy"]
    ),
    "kdcache precompute --hub": as_command(
        lambda root, good, folder: _precompute(root, good, folder / "computed")
    ),
}
HUB_WRITING: dict[str, Way] = {  # last: these change the hub
    "push": as_library(push_shown),
    "push again": as_library(push_shown),
    "kdcache push": as_command(lambda root, good, folder: ["push", good.root, root]),
    "gather": as_library(lambda root, good, folder: Hub(str(root)).gather()),
    "kdcache precompute --hub --push": as_command(
        lambda root, good, folder: [*_precompute(root, good, folder / "computed"), "--push"]
    ),
}
HUB_GROUPS = {"reading": HUB_READING, "using": HUB_USING, "writing": HUB_WRITING}


def _first(root: Path) -> str:
    return next(iter(_addresses(root)), f"{root}/stores/{'0' * 64}")


def _precompute(root: Path, good: Good, store: Path) -> list[object]:
    return ["precompute", "--mentors", "r8", "--dataset", "digits", "--samples", SAMPLES,
            "--views", VIEWS, "--checkpoint", f"r8={good.checkpoint}", "--device", "cpu",
            "--store", store, "--hub", root]  # fmt: skip
