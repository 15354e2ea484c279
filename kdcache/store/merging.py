"""What several pushes of the same views have together."""

from collections.abc import Iterable
from dataclasses import asdict, replace

from kdcache.canonical import json_sha256
from kdcache.store.gathered import MOST_ARRAYS, GatheredArray, GatheredStore

MOST_RECORDS = 2**18  # of one store; 64 MiB hold fewer


class TooMuch(Exception):
    """Pushes have more together than any reader takes."""


def merge_gathered(stores: Iterable[GatheredStore]) -> GatheredStore:
    """What several pushes of the same views have together; the same in whatever order they come.

    Where two have one chunk with other bytes (of the same targets, computed on two machines), that
    with the smaller SHA-256 stands. Their manifests may differ in who wrote them: the one with the
    smaller hash stands. What is cut into other blocks than that one says is left out; one that is
    cut as this version cuts goes before any other, so that nobody hides it.

    One at a time is taken of `stores`, which has at least one. Raises TooMuch.
    """
    by_block: dict[int, GatheredStore] = {}
    for store in stores:
        known = by_block.get(store.manifest.block)
        by_block[store.manifest.block] = store if known is None else _both(known, store)
        found = by_block.values()
        arrays, records = sum(len(one.arrays) for one in found), sum(o.num_records for o in found)
        if arrays > MOST_ARRAYS or records > MOST_RECORDS:
            raise TooMuch
    merged = min(by_block.values(), key=_usual_block_first)
    return replace(merged, arrays=dict(sorted(merged.arrays.items())))


def _both(left: GatheredStore, right: GatheredStore) -> GatheredStore:
    arrays = dict(left.arrays)
    for identity, array in right.arrays.items():
        known = arrays.get(identity)
        arrays[identity] = array if known is None else _together(known, array)
    first = min((left, right), key=_manifest_hash)
    return GatheredStore(manifest=first.manifest, arrays=arrays)


def _usual_block_first(store: GatheredStore) -> tuple[bool, str]:
    unusual = store.manifest.block != store.manifest.usual_block
    return unusual, _manifest_hash(store)


def _manifest_hash(store: GatheredStore) -> str:
    return json_sha256(asdict(store.manifest))


def _together(left: GatheredArray, right: GatheredArray) -> GatheredArray:
    records = dict(left.records)
    for key, record in right.records.items():
        known = records.get(key)
        if known is None or record.sha256 < known.sha256:
            records[key] = record
    wider = left if left.views >= right.views else right
    return replace(left, metadata=wider.metadata, records=records)
