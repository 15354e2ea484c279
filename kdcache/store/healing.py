"""The command that completes or heals a store."""

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdcache.factories import runs_code

if TYPE_CHECKING:
    from kdcache.store.stored_mentor import StoredMentor
    from kdcache.store.target_store import TargetStore


def healing_command(store: "TargetStore", mentors: Iterable[str]) -> str:
    """The `kdcache precompute` command line for these mentors of a store.

    Mentors that were made in different ways need one command each way, joined by `&&`. A
    module:factory is not spelt out: who copies the command would run code that only a store names.
    """
    dataset = store.manifest.dataset
    ways: dict[tuple[str, ...], list[str]] = {}
    sound = {stored.manifest.name: stored for stored in store.sound_mentors}
    for name in mentors:
        ways.setdefault(_options(sound.get(name)), []).append(_named(name))
    commands = []
    for options, named in ways.items():
        words = ["kdcache", "precompute", "--store", str(store.root), "--mentors", ",".join(named)]
        words += ["--dataset", _named(dataset["name"]), "--split", dataset["split"]]
        words += ["--samples", str(dataset["num_samples"]), *options]
        commands.append(shlex.join(words))
    return " && ".join(commands)


def _options(stored: "StoredMentor | None") -> tuple[str, ...]:
    """How a mentor was made; nothing where that is not known."""
    if stored is None:
        return ()
    shape = stored.manifest.run_shape
    given = {
        "--encoder": stored.encoder.name,
        "--precision": shape.get("precision"),
        "--batch-size": shape.get("batch"),
    }
    return tuple(str(word) for pair in given.items() if pair[1] is not None for word in pair)


def _named(name: str) -> str:
    return "MODULE:FACTORY" if runs_code(name) else name
