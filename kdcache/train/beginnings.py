"""What a run began with, and whether it still is: its environment, and what it trains on.

Another environment may change the last bits; that is told. Other samples, views or mentors make
another run; that is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdcache.canonical import json_sha256
from kdcache.datasets import ImageDataset
from kdcache.encode import LOGITS
from kdcache.mentors import MentorPool
from kdcache.store import TargetStore
from kdcache.versions import library_versions

Description = dict[str, str]

TARGETS = "targets"  # a hash of all their digests; runs that began before it was kept have none


def running_environment(device: torch.device) -> dict[str, Any]:
    """Library versions, device, its hardware and the number of threads: what decides last bits."""
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()  # which vector instructions are used
    )
    return {
        **library_versions(),
        "device": str(device),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
    }


def tell_changes(
    began: Mapping[str, Any], now: Mapping[str, Any], notify: Callable[[str], None]
) -> None:
    """Notifies of an environment that is another one than the run began in."""
    changed = [
        f"{key} {began[key]} -> {now[key]}"
        for key in now
        if key in began and began[key] != now[key]
    ]
    if changed:
        notify(
            "this run began elsewhere, so it may not end as if it had never stopped: "
            + ", ".join(changed)
        )


def describe_store(
    store: TargetStore,
    mentors: Sequence[str],
    kinds: Sequence[str] = (LOGITS.name,),
    views: Sequence[int] = (),
) -> Description:
    """A store's views, and these mentors as they are stored: who they are and how encoded.

    `views`: those of which the targets themselves are used; the same, computed on another machine,
    may have other last bits.
    """
    chosen = [store.mentor(name, kind) for name in mentors for kind in kinds]
    found = {"fingerprint": store.fingerprint}
    found |= {f"mentor {stored.title}": stored.identity[:16] for stored in chosen}
    if chosen and views:
        used = set(views)
        found[TARGETS] = _short(
            {
                stored.title: [
                    [view, block, record.sha256]
                    for (view, block), record in sorted(stored.commits.items())
                    if view in used
                ]
                for stored in chosen
            }
        )
    return found


def describe_pool(pool: MentorPool) -> Description:
    """Live mentors, and the shape they run in."""
    shape = pool.run_shape.describe()
    return {
        f"mentor {mentor.name}": _short({"mentor": mentor.identity(), "run_shape": shape})
        for mentor in pool.mentors
    }


def describe_samples(train: ImageDataset, test: ImageDataset) -> Description:
    """The samples' identities: which, their labels, some of their pixels."""
    return {
        "training samples": _short(train.identity()),
        "test samples": _short(test.identity()),
    }


def _short(value: Any) -> str:
    return json_sha256(value)[:16]
