"""What two stores must agree in before anything goes from one to the other, and what is to go."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kdcache.errors import UsageError
from kdcache.plan import MOST_CHUNKS
from kdcache.store import (
    ChunkKey,
    Damage,
    Manifest,
    StoredMentor,
    TargetStore,
    require_equal,
)


def asked_views(views: int | Sequence[int] | None) -> list[int] | None:
    """The numbers of views that are asked for; None: whatever is there. Raises UsageError."""
    if views is None:
        return None
    asked = range(views) if isinstance(views, int) else sorted(set(views))
    if not asked or not 0 <= asked[0] <= asked[-1] < MOST_CHUNKS:
        raise UsageError(
            f"--views is how many, or a list of numbers from 0 to {MOST_CHUNKS - 1:,}; got {views}"
        )
    return list(asked)


def incomplete_views(
    targets: Iterable[StoredMentor], asked: Sequence[int] | None, num_blocks: int
) -> dict[str, list[int]]:
    """Views that are asked for (None: all that are declared) and are not complete, by title."""
    found = {}
    for stored in targets:
        complete = set(stored.complete_views(num_blocks))
        declared = range(min(stored.declared_views, MOST_CHUNKS))  # a store may claim any
        wanted = declared if asked is None else asked
        found[stored.title] = [view for view in wanted if view not in complete]
    return {title: views for title, views in found.items() if views}


def lost_records(
    store: TargetStore, stored: StoredMentor, chooses: Callable[[ChunkKey], bool]
) -> list[Damage]:
    """Chunks that are chosen and whose commit record is gone, or cannot be believed."""
    return [
        Damage.of_chunk(stored, wrong.key, store.shown(wrong.path), wrong.reason)
        for wrong in stored.broken
        if chooses(wrong.key)
    ]


def require_views_of(source: TargetStore, destination: TargetStore) -> None:
    """Raises StoreMismatch unless both are of the same views, cut into the same blocks."""
    sides = [described_views(manifest) for manifest in (source.manifest, destination.manifest)]
    require_equal(
        "what the views are made of",
        (f"source {source.address}", sides[0]),
        (f"destination {destination.address}", sides[1]),
        "Name a new folder as the destination",
    )


def described_views(manifest: Manifest) -> dict[str, Any]:
    """What the views are made of and cut into, a line each: the fields of a table of two sides."""
    return {
        **manifest.dataset,
        **{f"recipe {key}": value for key, value in manifest.recipe.items()},
        "view_seed": manifest.view_seed,
        "block": manifest.block,
    }


def described_targets(stored: StoredMentor) -> dict[str, Any]:
    """What decides one mentor's targets of one kind, likewise."""
    return {
        **stored.manifest.to_json(),
        **{
            "encoder" if key == "name" else f"encoder {key}": _short(value)
            for key, value in stored.encoder.describe().items()
        },
        "row": stored.row_shape,
    }


def _short(value: Any) -> Any:
    """A fitted encoder's table by its hash: two may begin alike."""
    if isinstance(value, str) and len(value) > 64:
        return f"sha256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value
