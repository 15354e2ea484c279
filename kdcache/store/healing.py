"""The command that completes or heals a store."""

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore


def healing_command(store: "TargetStore", mentors: Iterable[str]) -> str:
    """The `kdcache precompute` command line for these mentors of a store.

    What it leaves out, precompute takes from the store.
    """
    dataset = store.manifest.dataset
    words = ["kdcache", "precompute", "--store", str(store.root), "--mentors", ",".join(mentors)]
    words += ["--dataset", dataset["name"], "--split", dataset["split"]]
    words += ["--samples", str(dataset["num_samples"])]
    return shlex.join(words)
