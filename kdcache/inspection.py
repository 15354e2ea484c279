"""What a store holds, from its metadata alone: no target is read, no mentor and no data needed."""

from typing import Any

from kdcache.store import StoredMentor, TargetStore


def inspect_store(store: TargetStore) -> dict[str, Any]:
    """The store as JSON: format, fingerprint, dataset, recipe, view_seed, views, complete, bytes,
    written_by, and for each mentor its identity, encoder with the error measured on what it wrote,
    accuracy (top-1 percent on its committed views; None before the first), views and bytes.
    `problems`: what of its documents is damaged (`verify` reads every byte). `warnings`: mentors
    hardly better than guessing."""
    mentors = [_mentor(store, stored) for stored in store.sound_mentors]
    problems = [f"mentor {name}: {error}" for name, error in store.mentor_errors.items()]
    problems += [
        f"mentor {stored.manifest.name}, view {wrong.key[0]}, block {wrong.key[1]}: {wrong.reason}"
        for stored in store.sound_mentors
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
        and all(m["complete_views"] == views for m in mentors),
        "bytes": sum(m["bytes"] for m in mentors),
        "written_by": store.manifest.written_by,
        "mentors": mentors,
        "problems": problems,
        "warnings": [w for stored in store.sound_mentors if (w := stored.near_chance())],
    }


def _mentor(store: TargetStore, stored: StoredMentor) -> dict[str, Any]:
    commits = stored.commits.values()
    measured = store.kind.combine_error_sums(record.error_sums for record in commits)
    return {
        **stored.manifest.to_json(),
        "accuracy": stored.accuracy,
        "views": stored.declared_views,
        "complete_views": len(stored.complete_views(store.manifest.num_blocks)),
        "chunks": len(stored.commits),
        "bytes": sum(record.bytes for record in commits),
        "encoder": {**stored.encoder.describe(), "measured_error": measured},
    }
