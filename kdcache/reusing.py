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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcache.adopting import Adopted, adopt, wanted_identity, why_not
from kdcache.copying import CopyJob
from kdcache.datasets import ImageDataset, as_image_dataset
from kdcache.defaults import choose_views, require_suits
from kdcache.devices import resolve_device
from kdcache.encode import KINDS, PRIMARY, has_source
from kdcache.errors import StoreError
from kdcache.filling import Progress, never
from kdcache.mentor_library import by_one_name, mentor_name
from kdcache.mentors import Mentor, load_mentor
from kdcache.precompute import PrecomputeJob, PrecomputeResult
from kdcache.row_checks import ROWS, RowChecks
from kdcache.share import Hub, PushJob, PushResult
from kdcache.share.checkpoints import Moved, find_or_pull
from kdcache.store import ChunkKey, Damage, TargetStore, open_store, read_payload_of, title
from kdcache.store.hub_layout import chunk_name
from kdcache.wanted import TargetsKey

WITHOUT = "To compute without a hub, give --no-hub, or leave $KDCACHE_HUB unset"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken of a hub.

    `chunks`: by title. `rows`: of them that were run here, and are alike. `refused`: chunks that
    are not what the mentor says; `damaged`: those that are not what was committed. Both are left to
    be computed.
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
    or folder. `may_begin`: whether there may be no hub yet.
    `scratch`: a folder for what has to come from the hub before anything is taken; None: the mentor
    library, and the user's mirrors. The other options are `PrecomputeJob`'s; run shape and encoder
    of mentors that are new here, where neither is given, are the hub's.

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
        scratch: Path | None = None,
        store: str | Path | None = None,
        recipe: Any = None,
        view_seed: int | None = None,
        encoder: str | None = None,
        fidelity: float | None = None,
        device: str | torch.device = "auto",
        precision: str | None = None,
        batch_size: int | None = None,
        flip_test: bool | None = None,
        recipe_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.hub = hub if isinstance(hub, Hub) else Hub(hub)
        images = as_image_dataset(dataset)
        chosen = choose_views(images, store, recipe, view_seed, recipe_options)
        primary = chosen.manifest.primary
        require_suits(encoder or primary.default_encoder, fidelity, primary)
        self.pulled: list[Moved] = []
        self.notes: list[str] = []
        with _or_without():
            self._found = self.hub.gathered(chosen.manifest.fingerprint)
            if self._found is None and may_begin:
                self.notes += [] if self.hub.exists() else [f"{self.hub.url} is no hub yet"]
            elif self._found is None:
                self.hub.index()
            loaded = self._load(images, mentors, checkpoints or {}, scratch)
        adopted = Adopted(precision=precision, batch_size=batch_size, flip_test=flip_test)
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
                flip_test=flip_test,
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
            flip_test=adopted.flip_test,
            encoders=adopted.encoders,
            **options,
        )
        with _or_without():
            self._there = self._open(scratch)
        self.takeable = self._choose_chunks()
        self._damaged: Sequence[Damage] = ()
        self._checks = RowChecks(
            self.job.pool, images, chosen.recipe, self.job.plan.manifest, self.takeable
        )

    def _load(
        self,
        images: ImageDataset,
        names: Sequence[str],
        checkpoints: Mapping[str, str | os.PathLike[str]],
        scratch: Path | None,
    ) -> list[Mentor]:
        given = by_one_name(checkpoints.items())
        variants = {} if self._found is None else self._found.variants()
        loaded = []
        for name in [mentor_name(name) for name in names]:
            path = given.get(name)
            # Of several at the hub, the one that its targets of these views are of.
            if path is None:
                meant = [one.mentor["checkpoint_sha256"] for one in variants.get(name, ())]
                found = find_or_pull(name, self.hub, images, preferred=meant, library=scratch)
                self.pulled += [found] if isinstance(found, Moved) else []
                path = found.path if isinstance(found, Moved) else found
            loaded.append(load_mentor(name, images, path))
        return loaded

    def _open(self, scratch: Path | None) -> TargetStore | None:
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
            if wanted_identity(one) in found.arrays:
                same.append(wanted_identity(one))
            else:
                self.notes.append(why_not(self.hub.url, found, one))
        primary = [identity for identity in same if found.arrays[identity].kind in PRIMARY]
        if not primary:
            return None
        address = "+".join((self.hub.store_address(found.manifest.fingerprint), *primary))
        return open_store(address, mirrors=scratch)

    def _choose_chunks(self) -> dict[TargetsKey, list[ChunkKey]]:
        """What is lacking here, and there."""
        chosen: dict[TargetsKey, list[ChunkKey]] = {}
        there = {} if self._there is None else {s.identity: s for s in self._there.sound_targets}
        for one in self.job.plan.wanted:
            stored = there.get(wanted_identity(one))
            if stored is None:
                continue
            if stored.row_shape != (here := one.row_shape(self.job.plan.manifest)):
                self.notes.append(
                    f"{self.hub.url} has rows of {one.title} of the shape {stored.row_shape}, here "
                    f"they have {here}: not taken"
                )
                continue
            keys = [(unit.view, unit.block) for unit in self.job.plan.units if one in unit.lacking]
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

    def num_chunks(self, mentor: str, kind: str | None = None) -> int:
        """How many are to be taken of a mentor's targets of one kind; None: the primary one."""
        kind = kind or self.job.plan.manifest.primary.name
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
        self._damaged = result.damaged
        left = Counter(
            (damage.mentor, damage.kind) for damage in (*result.damaged, *result.refused)
        )
        return Taken(
            chunks={
                title(mentor, KINDS[kind]): len(chunks) - left[mentor, kind]
                for (mentor, kind), chunks in self.takeable.items()
            },
            bytes=result.num_bytes,
            rows=ROWS * result.num_chunks,
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
        """Offers the hub what it lacks of these mentors. Errors as `PushJob`'s.

        A chunk file that was damaged there is put there anew, where the same bytes were computed.
        """
        store = open_store(self.job.root)
        push = PushJob(store, self.hub, mentors=list(self.job.pool.names))
        for damage in self._damaged:
            self._mend(store, damage)
        return push.run(progress=progress, should_stop=should_stop)

    def _mend(self, store: TargetStore, damage: Damage) -> None:
        assert self._there is not None  # it is of a chunk that was to be taken from there
        assert damage.mentor is not None
        assert damage.kind is not None
        if damage.view is None or damage.block is None:
            return
        key = (damage.view, damage.block)
        here = store.mentor(damage.mentor, damage.kind)
        there = self._there.mentor(damage.mentor, damage.kind).commits[key]
        if key in here.commits and here.commits[key].sha256 == there.sha256:
            self.hub.connection.put(chunk_name(there), read_payload_of(store, here, key).file)


@contextmanager
def _or_without() -> Iterator[None]:
    """Errors of a hub say how to go on without it."""
    try:
        yield
    except StoreError as error:
        error.args = (f"{error}. {WITHOUT}",)
        raise
