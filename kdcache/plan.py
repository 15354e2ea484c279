"""What a precompute will do: which chunks of which mentors' targets are missing or damaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.encode import LOGITS
from kdcache.errors import UsageError
from kdcache.store import ChunkReader, Manifest, StoredMentor
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
        """The names of the logits' encoders."""
        return tuple(dict.fromkeys(w.encoder.name for w in self.wanted if w.kind is LOGITS))

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
    readers = {
        (one.encoder, one.chunk_bytes(manifest)): ChunkReader(
            one.encoder, one.chunk_bytes(manifest)
        )
        for one in wanted
    }
    units = []
    reused, new = (dict.fromkeys((one.title for one in wanted), 0) for _ in range(2))
    for view in range(views):
        for block in range(manifest.num_blocks):
            lacking = []
            for one in wanted:
                stored = present.get(one.key)
                committed = stored is not None and (view, block) in stored.commits
                reader = readers[one.encoder, one.chunk_bytes(manifest)]
                if committed and stored and stored.damage((view, block), reader) is None:
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
