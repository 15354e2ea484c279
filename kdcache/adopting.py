"""Run shape and encoders as a hub has them, so that what is computed here is the same as there.

Taken over is only what a mentor with the same checkpoint and preprocessing has there, where nothing
else is asked for, and where the store here does not have it otherwise. What a stranger fitted is
measured first: an encoder is arithmetic, but one with too coarse levels loses what mentors say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kdcache.calibration import AUTO, worst_divergence
from kdcache.datasets import ImageDataset
from kdcache.defaults import ChosenViews, choose_run_shape, stored_encoders
from kdcache.encode import FITTED, Encoder, encoder_from_description
from kdcache.errors import UsageError, differences
from kdcache.mentors import Mentor, MentorPool, RunShape
from kdcache.store.gathered import GatheredArray, GatheredStore
from kdcache.store.manifest import targets_identity
from kdcache.wanted import Wanted

SLACK = 1.5  # other rows than those that it was fitted to cost a little more, or less


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What a precompute is to be given: options (None: left open), encoders by mentor.

    `notes`: a line for what was not taken over, and why.
    """

    precision: str | None = None
    batch_size: int | None = None
    flip_test: bool | None = None
    encoders: dict[str, Encoder] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def adopt(
    found: GatheredStore,
    hub: str,
    dataset: ImageDataset,
    chosen: ChosenViews,
    mentors: Sequence[Mentor],
    *,
    encoder: str | None,
    fidelity: float | None,
    device: torch.device,
    precision: str | None,
    batch_size: int | None,
    flip_test: bool | None = None,
) -> Adopted:
    """What of the hub's store `found` fits these mentors and options. `hub`: as it is told."""
    names = [mentor.name for mentor in mentors]
    there = {mentor.name: _same_mentor(found, mentor) for mentor in mentors}
    shape = choose_run_shape(
        precision,
        batch_size,
        chosen.existing,
        names,
        task=dataset.task,
        flip_test=flip_test,
    )
    if chosen.existing is None or not chosen.existing.sound_mentors:
        shape = _shape_there(list(there.values()), precision, batch_size, flip_test) or shape
    encoders: dict[str, Encoder] = {}
    notes = []
    stored = stored_encoders(None, chosen.existing, names)
    for mentor in mentors:
        for array in there[mentor.name] if mentor.name not in stored else ():
            kind = array.encoder["name"]
            if encoder not in (None, AUTO, kind) or array.mentor["run_shape"] != shape.describe():
                continue
            try:
                candidate = encoder_from_description(array.encoder, mentor.num_classes)
            except (ValueError, KeyError, TypeError):
                notes.append(f"{hub} has {mentor.name} by an encoder unknown here: {kind:.40}")
                continue
            if fidelity is not None or kind in FITTED:
                most = FITTED[kind].fidelity if fidelity is None else fidelity
                pool = MentorPool([mentor], device=device, run_shape=shape)
                cost = worst_divergence(pool, mentor.name, candidate, dataset, chosen.recipe)
                if not cost <= SLACK * most:
                    notes.append(
                        f"{hub} has {mentor.name} by {kind} at a mean KL of {cost:.2g} here, more "
                        f"than {most:g}: not taken. To take it: --encoder {kind} --fidelity "
                        f"{cost:.1g}"
                    )
                    continue
            encoders[mentor.name] = candidate
            break
    return Adopted(
        precision=shape.precision,
        batch_size=shape.batch,
        flip_test=shape.flip_test,
        encoders=encoders,
        notes=notes,
    )


def _same_mentor(found: GatheredStore, mentor: Mentor) -> list[GatheredArray]:
    """What is there of this very mentor, the fullest first."""
    identity = mentor.identity()
    return [
        array
        for array in found.variants().get(mentor.name, ())
        if all(array.mentor[key] == identity[key] for key in identity)
    ]


def _shape_there(
    there: Sequence[Sequence[GatheredArray]],
    precision: str | None,
    batch: int | None,
    flip_test: bool | None,
) -> RunShape | None:
    """The run shape of all of them, as far as the options leave it open; None where they differ."""
    shapes = set()
    for arrays in there:
        for array in arrays:
            try:
                shape = RunShape.from_description(array.mentor["run_shape"])
            except UsageError:
                continue
            if (
                precision in (None, shape.precision)
                and batch in (None, shape.batch)
                and flip_test in (None, shape.flip_test)
                and shape.memory_format == RunShape().memory_format
            ):
                shapes.add(shape)
                break
    return shapes.pop() if len(shapes) == 1 else None


def wanted_identity(one: Wanted) -> str:
    """What commit records of these targets state."""
    return targets_identity(one.mentor, one.kind, one.encoder)


def why_not(hub: str, found: GatheredStore, one: Wanted) -> str:
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
