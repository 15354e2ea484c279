"""The command that completes or heals a store."""

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdcache.factories import runs_code

if TYPE_CHECKING:
    from kdcache.store.target_store import TargetStore


def healing_command(store: "TargetStore", mentors: Iterable[str]) -> str:
    """The `kdcache precompute` command line for these mentors of a store.

    What it leaves out, precompute takes from the store. A module:factory is not spelt out: who
    copies the command would run code that only the store names.
    """
    dataset = store.manifest.dataset
    named = ",".join(map(_named, mentors))
    words = ["kdcache", "precompute", "--store", str(store.root), "--mentors", named]
    words += ["--dataset", _named(dataset["name"]), "--split", dataset["split"]]
    words += ["--samples", str(dataset["num_samples"])]
    return shlex.join(words)


def _named(name: str) -> str:
    return "MODULE:FACTORY" if runs_code(name) else name
