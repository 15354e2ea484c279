"""What a precompute will do: which chunks of which mentors' targets are missing or damaged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import UsageError
from kdcache.store import ChunkKey, ChunkReader, Manifest, StoredMentor
from kdcache.wanted import TargetsKey, Wanted

MOST_CHUNKS = 2**18  # of one mentor; in blocks of 8,192 samples, two billion forward passes


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One block of one view, and the targets that it lacks, those of a mentor side by side."""

    view: int
    block: int
    lacking: tuple[Wanted, ...]

    @property
    def mentors(self) -> tuple[str, ...]:
        """Whose targets these are: each runs once."""
        return tuple(dict.fromkeys(wanted.mentor.name for wanted in self.lacking))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a precompute will do.

    `units`: in the order they run. `reused`, `new`: committed and missing
    chunks by what is wanted (`Wanted.title`: a mentor's name, for its logits).
    """

    store: Path
    manifest: Manifest
    views: int
    wanted: tuple[Wanted, ...]
    units: tuple[Unit, ...]
    reused: Mapping[str, int]
    new: Mapping[str, int]

    @property
    def num_pixels(self) -> int:
        """Views of samples to run mentors over."""
        return sum(map(self.num_rows, self.units))

    def num_rows(self, unit: Unit) -> int:
        """Samples of a unit's block."""
        return self.manifest.num_rows(unit.block)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of the primary targets' encoders."""
        return tuple(dict.fromkeys(w.encoder.name for w in self.wanted if w.kind.primary))

    @property
    def bytes_to_write(self) -> int:
        """Size of the missing chunks, before compression."""
        return sum(self.new[one.title] * one.chunk_bytes(self.manifest) for one in self.wanted)


def make_plan(
    root: Path,
    manifest: Manifest,
    wanted: Sequence[Wanted],
    views: int,
    present: Mapping[TargetsKey, StoredMentor],
) -> Plan:
    """Which chunks of these targets are not there, or there and damaged: every byte is read.

    Raises UsageError for more chunks than anyone computes, which a store of others may declare.
    """
    if views * manifest.num_blocks > MOST_CHUNKS:
        raise UsageError(
            f"{views:,} views in {manifest.num_blocks:,} blocks each are more than {MOST_CHUNKS:,} "
            f"chunks a mentor; say with --views how many views {root} is to have"
        )
    is_sound = soundness(manifest, wanted, present)
    units = []
    reused, new = (dict.fromkeys((one.title for one in wanted), 0) for _ in range(2))
    for view in range(views):
        for block in range(manifest.num_blocks):
            lacking = []
            for one in wanted:
                if is_sound(one, (view, block)):
                    reused[one.title] += 1
                else:
                    new[one.title] += 1
                    lacking.append(one)
            if lacking:
                units.append(Unit(view=view, block=block, lacking=tuple(lacking)))
    return Plan(
        store=root,
        manifest=manifest,
        views=views,
        wanted=tuple(wanted),
        units=tuple(units),
        reused=reused,
        new=new,
    )


def soundness(
    manifest: Manifest, wanted: Sequence[Wanted], present: Mapping[TargetsKey, StoredMentor]
) -> Callable[[Wanted, ChunkKey], bool]:
    """Whether a chunk of what is wanted is committed and sound: every byte of it is read."""
    readers: dict[tuple[str | None, int], ChunkReader] = {}  # each has a buffer of a chunk's size
    reader_of = {}
    for one in wanted:
        size = one.chunk_bytes(manifest)
        reader_of[one.key] = readers.setdefault(
            (one.encoder.compression, size), ChunkReader(one.encoder, size)
        )

    def is_sound(one: Wanted, key: ChunkKey) -> bool:
        stored = present.get(one.key)
        if stored is None or key not in stored.commits:
            return False
        return stored.damage(key, reader_of[one.key]) is None

    return is_sound
