"""A store in one document: its manifest, its arrays and their commit records, but no target.

It is what a push to a hub states, and what all pushes of the same views are gathered into. Arrays
are told apart by the identity of their targets, so mentors of one name and different checkpoints or
encoders stand side by side. Documents are kept as they were written: an array of an encoder or kind
that this version does not know is passed on untouched.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from kdcache.encode import FITTED, KINDS, LOGITS, PRIMARY
from kdcache.errors import DamagedTargets, StoreError, UsageError
from kdcache.store.commit_record import ChunkKey, CommitRecord
from kdcache.store.gathered_checks import require_array, require_manifest
from kdcache.store.layout import FORMAT, METADATA, SPARE_ENCODER, member_name
from kdcache.store.manifest import Manifest, MentorManifest, manifest_of, mentor_of
from kdcache.store.sealed import BLANK, SEAL, is_sha256, read_sealed, seal
from kdcache.store.stored_mentor import StoredMentor
from kdcache.store.zarr_metadata import group_metadata

MOST_ARRAYS = 3000  # as many as 1,000 mentors have


@dataclass(frozen=True, kw_only=True)
class GatheredArray:
    """One array of targets: its mentor's attributes, its zarr.json without seal, its records.

    `identity`: what every record states; it names the array.
    """

    identity: str
    mentor: Mapping[str, Any]
    kind: str
    metadata: Mapping[str, Any]
    records: Mapping[ChunkKey, CommitRecord]

    @property
    def name(self) -> str:
        return str(self.mentor["name"])

    @property
    def views(self) -> int:
        return int(self.metadata["shape"][0])

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The encoder's description."""
        described: Mapping[str, Any] = self.metadata["attributes"]["kdcache"]["encoder"]
        return described

    @property
    def num_bytes(self) -> int:
        return sum(record.bytes for record in self.records.values())

    def complete_views(self, num_blocks: int) -> int:
        counts = Counter(view for view, _ in self.records)
        return sum(count == num_blocks for count in counts.values())

    @property
    def accuracy(self) -> float | None:
        """Top-1 percent on what is committed; None of what is no logits, or is empty."""
        rows = sum(record.rows for record in self.records.values())
        if self.kind != LOGITS.name or not rows:
            return None
        return 100 * sum(record.correct for record in self.records.values()) / rows

    @cached_property
    def loss(self) -> float:
        """What encoding cost, as the records state it (`TargetKind.cost`)."""
        kind = KINDS.get(self.kind)
        if kind is None:
            return 0.0
        sums = (record.error_sums for record in self.records.values())
        return kind.cost(kind.combine_error_sums(sums))

    def to_json(self) -> dict[str, Any]:
        records = [asdict(record) for _, record in sorted(self.records.items())]
        for record in records:
            del record["identity"]  # it is the array's
        return {
            "identity": self.identity,
            "mentor": dict(self.mentor),
            "kind": self.kind,
            "metadata": dict(self.metadata),
            "records": records,
        }

    @classmethod
    def from_json(cls, value: Any) -> "GatheredArray":
        """Raises ValueError, StoreError for what no writer wrote."""
        try:
            identity, kind, metadata = value["identity"], value["kind"], value["metadata"]
            mentor_of(value["mentor"], "a gathered store")
            if not (is_sha256(identity) and _is_kind(kind)):
                raise ValueError("an array must state its identity and kind")
            views = metadata["shape"][0]
            if type(views) is not int or not 1 <= views < 2**40:
                raise ValueError(f"it states {str(views)[:80]} views")
            if not isinstance(metadata["attributes"]["kdcache"]["encoder"]["name"], str):
                raise ValueError("an encoder must have a name")
            records = [_record(record, identity) for record in value["records"]]
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"not an array of targets ({error})") from error
        array = cls(
            identity=identity,
            mentor=value["mentor"],
            kind=kind,
            metadata=metadata,
            records={record.key: record for record in records},
        )
        if len(array.records) != len(records):
            raise ValueError("two records name one chunk")
        return array


@dataclass(frozen=True, kw_only=True)
class GatheredStore:
    """What several pushes, or one, have of the same views.

    `arrays`: by identity, ascending. `pushes`: the SHA-256 of those that its document gathers.
    """

    manifest: Manifest
    arrays: Mapping[str, GatheredArray]
    pushes: frozenset[str] = frozenset()

    @property
    def num_bytes(self) -> int:
        return sum(array.num_bytes for array in self.arrays.values())

    @property
    def num_records(self) -> int:
        return sum(len(array.records) for array in self.arrays.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "manifest": asdict(self.manifest),
            "arrays": [array.to_json() for _, array in sorted(self.arrays.items())],
        }

    @classmethod
    def from_json(cls, value: Any, origin: object) -> "GatheredStore":
        """Raises DamagedTargets for what no writer wrote, StoreError for another store format.

        `origin`: for messages.
        """
        try:
            manifest = manifest_of(value["manifest"], origin)
            require_manifest(manifest)
            if len(value["arrays"]) > MOST_ARRAYS:
                raise ValueError(f"it has more than {MOST_ARRAYS:,} arrays")
            arrays = {}
            for one in value["arrays"]:
                array = GatheredArray.from_json(one)
                require_array(array, manifest)
                if array.identity in arrays:
                    raise ValueError(f"mentor {array.name[:40]!r} is there twice")
                arrays[array.identity] = array
            pushes = frozenset(value.get("pushes", ()))
            if not all(map(is_sha256, pushes)):
                raise ValueError("the name of a push is no SHA-256")
        except (TypeError, KeyError, ValueError, AttributeError, StoreError) as error:
            if isinstance(error, StoreError) and _is_of_later_format(value):
                raise
            raise DamagedTargets(
                f"{origin} describes no store: {error}. No writer wrote it"
            ) from error
        return cls(manifest=manifest, arrays=arrays, pushes=pushes)

    def variants(self) -> dict[str, list[GatheredArray]]:
        """By each mentor's name its primary targets; of several, those with most chunks first."""
        found: dict[str, list[GatheredArray]] = {}
        primary = self.manifest.primary.name
        for _, array in sorted(self.arrays.items()):
            if array.kind == primary:
                found.setdefault(array.name, []).append(array)
        return {name: sorted(found[name], key=_fullest_first) for name in sorted(found)}

    def beside(self, primary: GatheredArray) -> list[GatheredArray]:
        """The other kinds of the same mentor, one array each: the fullest."""
        kinds: dict[str, list[GatheredArray]] = {}
        for array in self._others.get(primary.name, ()):
            if array.mentor == primary.mentor:
                kinds.setdefault(array.kind, []).append(array)
        return [min(kinds[kind], key=_fullest_first) for kind in sorted(kinds)]

    @cached_property
    def _others(self) -> dict[str, list[GatheredArray]]:
        """The arrays of kinds that are not primary, by their mentor's name."""
        found: dict[str, list[GatheredArray]] = {}
        for array in self.arrays.values():
            if array.kind not in PRIMARY:
                found.setdefault(array.name, []).append(array)
        return found

    def choose(self, identities: Sequence[str] = ()) -> "GatheredStore":
        """One variant of each mentor, as a store has: the fullest, or of these identities.

        `identities`: of logits, or how they begin. Raises UsageError for one that is of none, or of
        several.
        """
        variants = self.variants()
        chosen: dict[str, GatheredArray] = {}  # by folder: two names may have one
        for first in sorted((arrays[0] for arrays in variants.values()), key=_fullest_first):
            chosen.setdefault(member_name(first.name), first)
        for begins in identities:
            meant = [a for arrays in variants.values() for a in arrays if _begins(a, begins)]
            if len(meant) != 1:
                there = ", ".join(
                    f"{a.name} {a.identity[:16]}" for arrays in variants.values() for a in arrays
                )
                raise UsageError(
                    f"{begins!r} names {len(meant)} of the mentors' variants there; there are "
                    f"{there or 'none'}"
                )
            chosen[member_name(meant[0].name)] = meant[0]
        arrays = [array for one in chosen.values() for array in (one, *self.beside(one))]
        return replace(self, arrays={array.identity: array for array in sorted(arrays, key=_key)})

    def documents(self) -> dict[str, bytes]:
        """A store's documents by path, as its writer makes them; without lists and records.

        Of a store in which every mentor has one variant (`choose`).
        """
        documents: dict[str, dict[str, Any]] = {
            METADATA: self.manifest.document(),
            f"mentors/{METADATA}": group_metadata({SEAL: BLANK}),
        }
        for array in self.arrays.values():
            group = f"mentors/{member_name(array.name)}"
            mentor = MentorManifest(**array.mentor)
            documents[f"{group}/{METADATA}"] = mentor.document()
            documents[f"{group}/{array.kind}/{METADATA}"] = _sealable(array.metadata)
            if array.encoder["name"] in FITTED:
                spare = {"encoder": dict(array.encoder), SEAL: BLANK}
                documents[f"{group}/{array.kind}/{SPARE_ENCODER}"] = spare
        return {path: seal(document) for path, document in documents.items()}

    def records_of(self) -> dict[str, list[CommitRecord]]:
        """The commit records by the path of their array's folder; of a store as `documents`."""
        return {
            f"mentors/{member_name(array.name)}/{array.kind}": list(array.records.values())
            for array in self.arrays.values()
        }


def gather_array(stored: StoredMentor, keys: Iterable[ChunkKey]) -> GatheredArray:
    """These committed chunks of a store's array. Raises DamagedTargets, FileNotFoundError."""
    metadata = read_sealed(stored.array.metadata)
    metadata["attributes"]["kdcache"].pop(SEAL, None)
    records = {key: stored.commits[key] for key in sorted(keys)}
    views = max((view + 1 for view, _ in records), default=1)
    metadata["shape"][0] = min(views, stored.declared_views)
    return GatheredArray(
        identity=stored.identity,
        mentor=stored.manifest.to_json(),
        kind=stored.kind.name,
        metadata=metadata,
        records=records,
    )


def _is_of_later_format(value: Any) -> bool:
    found = value["manifest"].get("format")  # a StoreError of `manifest_of` got past this
    return type(found) is int and found > FORMAT


def _is_kind(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= 40


def _record(value: Any, identity: str) -> CommitRecord:
    whole = {**value, "identity": identity}
    name = f"{value['view']:06d}.{value['block']:06d}.{value['crc32c']}.json"
    return CommitRecord.from_json(name, whole)


def _sealable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {**metadata["attributes"]["kdcache"], SEAL: BLANK}
    return {**metadata, "attributes": {**metadata["attributes"], "kdcache": attributes}}


def _fullest_first(array: GatheredArray) -> tuple[int, float, str]:
    """Of two that have as many chunks the one that lost less comes first."""
    return -len(array.records), array.loss, array.identity


def _begins(array: GatheredArray, start: str) -> bool:
    return array.identity.startswith(start)


def _key(array: GatheredArray) -> str:
    return array.identity
