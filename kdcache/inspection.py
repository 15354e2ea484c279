"""What a store holds, from its metadata alone: no target is read, no mentor and no data needed."""

from math import prod
from typing import Any

from kdcache.datasets.skeleton import MPII_16
from kdcache.encode import PRIMARY
from kdcache.store import StoredMentor, TargetStore


def inspect_store(store: TargetStore) -> dict[str, Any]:
    """The store as JSON: format, fingerprint, dataset, recipe, view_seed, views, complete, bytes,
    written_by, and for each mentor its identity, and of its logits the encoder with the error
    measured on what it wrote, accuracy (top-1 percent on its committed views; None before the
    first), views and bytes; under `kinds` the same of each kind of targets that it has, by name,
    with the numbers a row has, `width`. The store's `complete` and `bytes` are of all kinds.
    `metric`: what accuracy is of such a store, top-1, AP or PCKh; the latter two are None here, as
    they take the labels (`keypoint_accuracy`).
    `problems`: what of its documents is damaged (`verify` reads every byte). `warnings`: mentors
    hardly better than guessing."""
    mentors = [_mentor(store, stored) for stored in store.sound_mentors]
    problems = [
        f"mentor {name if kind in PRIMARY else f'{name} {kind}'}: {error}"
        for (name, kind), error in store.target_errors.items()
    ]
    problems += [
        f"mentor {stored.title}, view {wrong.key[0]}, block {wrong.key[1]}: {wrong.reason}"
        for stored in store.sound_targets
        for wrong in stored.broken
    ]
    views = store.num_views
    return {
        "format": store.manifest.format,
        "fingerprint": store.fingerprint,
        "dataset": store.manifest.dataset,
        "recipe": store.manifest.recipe,
        "view_seed": store.manifest.view_seed,
        "views": views,
        "complete": bool(mentors)
        and not problems
        and all(k["complete_views"] == views for m in mentors for k in m["kinds"].values()),
        "bytes": sum(
            record.bytes for stored in store.sound_targets for record in stored.commits.values()
        ),
        "written_by": store.manifest.written_by,
        "metric": _metric(store.manifest.dataset),
        "mentors": mentors,
        "problems": problems,
        "warnings": [w for stored in store.sound_mentors if (w := stored.near_chance())],
    }


def _metric(dataset: dict[str, Any]) -> str:
    if "joints" not in dataset:
        return "top-1"
    return "PCKh" if dataset["joints"] == list(MPII_16.joints) else "AP"


def _mentor(store: TargetStore, logits: StoredMentor) -> dict[str, Any]:
    name = logits.manifest.name
    of_it = [stored for stored in store.sound_targets if stored.manifest.name == name]
    return {
        **logits.manifest.to_json(),
        "accuracy": logits.accuracy,
        **_committed(store, logits),
        "kinds": {
            stored.kind.name: {**_committed(store, stored), "width": prod(stored.row_shape)}
            for stored in of_it
        },
    }


def _committed(store: TargetStore, stored: StoredMentor) -> dict[str, Any]:
    commits = stored.commits.values()
    measured = stored.kind.combine_error_sums(record.error_sums for record in commits)
    return {
        "views": stored.declared_views,
        "complete_views": len(stored.complete_views(store.manifest.num_blocks)),
        "chunks": len(stored.commits),
        "bytes": sum(record.bytes for record in commits),
        "encoder": {**stored.encoder.summary(), "measured_error": measured},
    }
