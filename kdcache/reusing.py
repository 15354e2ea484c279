"""Compute only what no one has: a precompute that takes what a hub has of exactly the same.

    what the hub has -> a few rows of each chunk, run here -> chunks, each compared as it arrives
    -> the plan, made again -> run -> offered back

The same is: dataset, recipe, seed, blocks, and of the mentor its checkpoint, preprocessing, run
shape and encoder. Nothing of a hub is believed: a chunk is committed when it is what its record
says, and when the rows that were run here are alike (`row_checks`).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcache.adopting import Adopted, adopt
from kdcache.copying import CopyJob
from kdcache.datasets import ImageDataset, as_image_dataset
from kdcache.defaults import choose_views
from kdcache.devices import resolve_device
from kdcache.encode import KINDS, LOGITS, has_source
from kdcache.errors import CheckpointError, StoreError, Unreachable, differences
from kdcache.filling import Progress, never
from kdcache.mentor_library import by_one_name, find_checkpoint, mentor_name
from kdcache.mentors import Mentor, load_mentor
from kdcache.precompute import PrecomputeJob, PrecomputeResult
from kdcache.row_checks import RowChecks
from kdcache.share import Hub, PushJob, PushResult
from kdcache.share.checkpoints import Moved, pull_mentor, shared_checkpoints
from kdcache.store import ChunkKey, Damage, TargetStore, open_store, title
from kdcache.store.gathered import GatheredStore
from kdcache.store.manifest import targets_identity
from kdcache.wanted import TargetsKey, Wanted

WITHOUT = "To compute without a hub, give --no-hub, or leave $KDCACHE_HUB unset"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken of a hub.

    `chunks`: by title. `rows`: run here, of each mentor's. `refused`: chunks that are not what the
    mentor says; `damaged`: those that are not what was committed. Both are left to be computed.
    """

    chunks: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    rows: int = 0
    refused: Sequence[Damage] = ()
    damaged: Sequence[Damage] = ()
    stopped: bool = False


class ReuseJob:
    """One precompute beside a hub: made, looked at, then `take`, `run`, and maybe `push`.

    `mentors`: names; a mentor without checkpoint here is taken from the hub. `hub`: a hub, its URL
    or folder. `may_begin`: whether there may be no hub yet, as where something is to be pushed.
    `library`: where checkpoints of the hub are put; None: the mentor library. The other options are
    `PrecomputeJob`'s; run shape and encoder of mentors that are new here, where neither is given,
    are the hub's.

    Attributes: `job`, the precompute; `pulled`: checkpoints that came from the hub; `takeable`: the
    chunks that are to be taken, by mentor and kind, and `num_bytes` of them; `notes`: why others
    are not, a line each.

    Raises Unreachable, StoreError where there is no hub; CheckpointError for a mentor that has no
    checkpoint here and none, or several, there; else as `PrecomputeJob`.
    """

    def __init__(
        self,
        dataset: Any,
        mentors: Sequence[str],
        hub: Hub | str,
        *,
        checkpoints: Mapping[str, str | os.PathLike[str]] | None = None,
        may_begin: bool = False,
        library: Path | None = None,
        store: str | Path | None = None,
        recipe: Any = None,
        view_seed: int | None = None,
        encoder: str | None = None,
        fidelity: float | None = None,
        device: str | torch.device = "auto",
        precision: str | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        self.hub = hub if isinstance(hub, Hub) else Hub(hub)
        images = as_image_dataset(dataset)
        chosen = choose_views(images, store, recipe, view_seed)
        self.pulled: list[Moved] = []
        self.notes: list[str] = []
        with _or_without():
            self._found = self.hub.gathered(chosen.manifest.fingerprint)
            if self._found is None and not may_begin:
                self.hub.index()
            loaded = self._load(images, mentors, checkpoints or {}, library)
        adopted = Adopted(precision=precision, batch_size=batch_size)
        if self._found is not None:
            adopted = adopt(
                self._found,
                self.hub.url,
                images,
                chosen,
                loaded,
                encoder=encoder,
                fidelity=fidelity,
                device=resolve_device(str(device)),
                precision=precision,
                batch_size=batch_size,
            )
        self.notes += adopted.notes
        self.job = PrecomputeJob(
            images,
            loaded,
            store=chosen.root,
            recipe=chosen.recipe,
            encoder=encoder,
            fidelity=fidelity,
            device=device,
            precision=adopted.precision,
            batch_size=adopted.batch_size,
            encoders=adopted.encoders,
            **options,
        )
        with _or_without():
            self._there = self._open()
        self.takeable = self._choose_chunks()
        self._checks = RowChecks(
            self.job.pool, images, chosen.recipe, self.job.plan.manifest, self.takeable
        )

    def _load(
        self,
        images: ImageDataset,
        names: Sequence[str],
        checkpoints: Mapping[str, str | os.PathLike[str]],
        library: Path | None,
    ) -> list[Mentor]:
        given = dict(by_one_name(checkpoints.items()))
        loaded = []
        for name in [mentor_name(name) for name in names]:
            path = given.get(name)
            if path is None:
                try:
                    path = find_checkpoint(name, images.name)
                except CheckpointError as missing:
                    path = self._pull(name, images, missing, library)
            loaded.append(load_mentor(name, images, path))
        return loaded

    def _pull(
        self, name: str, images: ImageDataset, missing: CheckpointError, library: Path | None
    ) -> Path:
        """The hub's checkpoint: of several, the one that its targets of these views are of."""
        there: list[str] = []
        with suppress(StoreError):  # no hub yet; one that cannot be reached was noticed before
            there = shared_checkpoints(self.hub, name, images.name)
        if not there:
            raise CheckpointError(
                f"{missing}. {self.hub.url} has none either: whoever has it gives it to all with "
                f"kdcache push-mentor {name} --dataset {images.name} --hub {self.hub.url}"
            )
        variants = {} if self._found is None else self._found.variants()
        moved = pull_mentor(
            name,
            self.hub,
            dataset=images.name,
            num_classes=images.num_classes,
            preferred=[one.mentor["checkpoint_sha256"] for one in variants.get(name, ())],
            library=library,
        )
        self.pulled.append(moved)
        return moved.path

    def _open(self) -> TargetStore | None:
        """The hub's store, of each mentor exactly these targets; None where it has none of them."""
        found, manifest = self._found, self.job.plan.manifest
        if found is None:
            self.notes.append(f"{self.hub.url} has nothing of these views")
            return None
        if found.manifest.block != manifest.block:
            self.notes.append(
                f"{self.hub.url} has these views in blocks of {found.manifest.block:,} samples, "
                f"here they have {manifest.block:,}: nothing can be taken"
            )
            return None
        same = []
        for one in self.job.plan.wanted:
            if _identity(one) in found.arrays:
                same.append(_identity(one))
            else:
                self.notes.append(_why_not(self.hub.url, found, one))
        logits = [identity for identity in same if found.arrays[identity].kind == LOGITS.name]
        if not logits:
            return None
        return open_store("+".join((self.hub.store_address(found.manifest.fingerprint), *logits)))

    def _choose_chunks(self) -> dict[TargetsKey, list[ChunkKey]]:
        """What is lacking here, and there."""
        chosen: dict[TargetsKey, list[ChunkKey]] = {}
        for stored in self._there.sound_targets if self._there is not None else ():
            for one in self.job.plan.wanted:
                if stored.identity != _identity(one):
                    continue
                keys = [(u.view, u.block) for u in self.job.plan.units if one in u.lacking]
                keys = [key for key in keys if key in stored.commits]
                exact = [key for key in keys if not has_source(stored.commits[key].error_sums)]
                if len(exact) < len(keys):
                    self.notes.append(
                        f"{len(keys) - len(exact):,} chunks of {one.title} at {self.hub.url} were "
                        "encoded anew from targets that were not exact: not taken"
                    )
                if exact:
                    chosen[one.key] = exact
        return chosen

    @property
    def num_bytes(self) -> int:
        """Of the chunks that are to be taken, as they move."""
        return sum(
            self._there.mentor(*key).commits[chunk].bytes
            for key, chunks in self.takeable.items()
            for chunk in chunks
            if self._there is not None
        )

    def num_chunks(self, mentor: str, kind: str = LOGITS.name) -> int:
        """How many are to be taken of a mentor's targets of one kind."""
        return len(self.takeable.get((mentor, kind), ()))

    @property
    def num_rows(self) -> int:
        """Views of samples that mentors are run over, to see whether they say the same."""
        return self._checks.num_rows

    def take(
        self,
        *,
        checking: Progress | None = None,
        taking: Progress | None = None,
        should_stop: Callable[[], bool] = never,
    ) -> Taken:
        """Runs the rows, takes the chunks that are alike, and makes the plan again.

        `checking`: progress in rows; `taking`: in bytes. Raises Unreachable, RunFailed, StoreError;
        what was taken is committed.
        """
        if not self.takeable:
            return Taken()
        assert self._there is not None
        if not self._checks.run(progress=checking, should_stop=should_stop):
            return Taken(stopped=True)
        self.job.make_store()
        with _or_without():
            copy = CopyJob(
                self._there,
                self.job.root,
                mentors=list(dict.fromkeys(mentor for mentor, _ in self.takeable)),
                chunks=self.takeable,
                check=self._checks.refuse,
            )
            result = copy.run(progress=taking, should_stop=should_stop)
        self.job.plan_again()
        left = Counter(
            (damage.mentor, damage.kind) for damage in (*result.damaged, *result.refused)
        )
        return Taken(
            chunks={
                title(mentor, KINDS[kind]): len(chunks) - left[mentor, kind]
                for (mentor, kind), chunks in self.takeable.items()
            },
            bytes=result.num_bytes,
            rows=self.num_rows,
            refused=result.refused,
            damaged=result.damaged,
            stopped=result.stopped,
        )

    def run(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> PrecomputeResult:
        """Computes what is left, as `PrecomputeJob.run`."""
        return self.job.run(progress=progress, should_stop=should_stop)

    def push(
        self, *, progress: Progress | None = None, should_stop: Callable[[], bool] = never
    ) -> PushResult:
        """Offers the hub what it lacks of these mentors. Errors as `PushJob`'s."""
        names = [mentor.name for mentor in self.job.pool.mentors]
        push = PushJob(open_store(self.job.root), self.hub, mentors=names)
        return push.run(progress=progress, should_stop=should_stop)


@contextmanager
def _or_without() -> Iterator[None]:
    """Errors of a hub say how to go on without it."""
    try:
        yield
    except (Unreachable, StoreError) as error:
        error.args = (f"{error}. {WITHOUT}",)
        raise


def _identity(one: Wanted) -> str:
    return targets_identity(one.mentor, one.kind, one.encoder)


def _why_not(hub: str, found: GatheredStore, one: Wanted) -> str:
    """Why nothing of these targets can be taken, though the hub has these views."""
    of_name = [a for a in found.arrays.values() if (a.name, a.kind) == one.key]
    if not of_name:
        return f"{hub} has nothing of {one.title} for these views"
    nearest = max(of_name, key=lambda array: len(array.records))
    theirs, ours = (
        {**mentor, **mentor["run_shape"], "encoder": encoder}
        for mentor, encoder in (
            (nearest.mentor, nearest.encoder["name"]),
            (one.mentor.to_json(), one.encoder.name),
        )
    )
    different = differences(theirs, ours, ignored=["run_shape"])
    if "checkpoint_sha256" in different:
        there, here = (str(side)[:12] for side in different["checkpoint_sha256"])
        return (
            f"{hub} has {one.title} of another checkpoint ({there}..): not taken; here is {here}.."
        )
    told = ", ".join(f"{key} {there}, here {here}" for key, (there, here) in different.items())
    return f"{hub} has {one.title} made otherwise ({told or 'encoder fitted anew'}): not taken"
