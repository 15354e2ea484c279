"""The commands that complete or heal a store, and that train from it."""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kdcache.encode import KINDS
from kdcache.factories import runs_code

if TYPE_CHECKING:
    from kdcache.store.manifest import Manifest
    from kdcache.store.stored_mentor import StoredMentor
    from kdcache.store.target_store import TargetStore


def healing_command(
    store: "TargetStore",
    mentors: Iterable[str],
    kinds: Iterable[str] = (),
    *,
    damaged: bool = False,
    views: Iterable[int] = (),
    place: str | None = None,
    more: Sequence[str] = (),
) -> str:
    """The command line that adds or heals targets of these mentors of a store.

    `kdcache precompute`, but for what is `damaged` at a hub: what stands there is only written by
    `kdcache push --overwrite`, from a store that has it, of these `views` (none: all).

    `kinds`: names of kinds of targets that it is to add, to those that a mentor has. Mentors that
    were made in different ways need one command each way, joined by `&&`. A module:factory is
    not spelt out: who copies the command would run code that only a store names. A store at a
    URL is healed where it lies, and a hub's is added to with --hub HUB --push. `place`: what the
    store's folder is called, where not by its path; `more`: further words of each line.
    """
    hub = None if store.remote is None or place else store.remote.hub
    if hub is not None and damaged:
        return _pushing(hub, mentors, views)
    dataset = store.manifest.dataset
    ways: dict[tuple[str, ...], list[str]] = {}
    sound = {stored.manifest.name: stored for stored in store.sound_mentors}
    for name in mentors:
        wanted = {*store.kinds(name), *kinds}
        added = [k.option for k in KINDS.values() if k.option is not None and k.name in wanted]
        ways.setdefault((*_options(sound.get(name)), *added), []).append(_named(name))
    commands = []
    root = place or (str(store.root) if store.remote is None else "STORE")
    target = ["--store", root]
    if hub is not None:
        target = ["--hub", hub, "--push"]
        more = [*more, *_views_of(store)]
    for options, named in ways.items():
        words = ["kdcache", "precompute", *target, "--mentors", ",".join(named)]
        words += ["--dataset", _named(dataset["name"]), "--split", dataset["split"]]
        words += ["--samples", str(dataset["num_samples"]), *options, *more]
        commands.append(shlex.join(words))
    is_behind = store.remote is not None and hub is None and not place
    where = f"  # STORE: the folder behind {store.address}" if is_behind else ""
    return " && ".join(commands) + where


def training_command(
    store: "TargetStore", mentors: Iterable[str] | None = None, *, place: str | None = None
) -> str | None:
    """The `kdcache train-student` command line for a store and these mentors (None: all of it).

    Of mentors that have no complete view in common those with the most are named; None where no
    mentor has any. `place`: as `healing_command` has it.
    """
    blocks = store.manifest.num_blocks
    complete = {m.manifest.name: set(m.complete_views(blocks)) for m in store.sound_mentors}
    asked = [name for name in (complete if mentors is None else mentors) if complete.get(name)]
    together: set[int] = set()
    named: list[str] = []
    for name in sorted(asked, key=lambda name: -len(complete[name])):
        if not named or together & complete[name]:
            together = complete[name] & together if named else complete[name]
            named.append(name)
    if not named:
        return None
    words = ["kdcache", "train-student", "--store", place or store.address]
    if set(named) != set(store.mentors):
        words += ["--mentors", ",".join(name for name in asked if name in named)]
    return shlex.join([*words, "--dataset", _named(store.manifest.dataset["name"])])


def view_ranges(views: Sequence[int]) -> str:
    """Views as they are said in messages: 0 to 39 for a run of them, else a list."""
    run = range(views[0], views[-1] + 1) if len(views) > 2 else range(0)
    if run and (views == run or (len(run) == len(views) and list(views) == list(run))):
        return f"{views[0]} to {views[-1]}"
    return ", ".join(map(str, views)) or "none"


def _pushing(hub: str, mentors: Iterable[str], views: Iterable[int]) -> str:
    """The command that puts what is damaged at a hub there anew."""
    command = ["kdcache", "push", "STORE", hub, "--overwrite"]
    command += ["--mentors", ",".join(mentors)] if (mentors := list(mentors)) else []
    if numbers := sorted(set(views)):
        command += ["--views", f"{numbers[0]}:{numbers[-1] + 1}"]
    return f"{shlex.join(command)}  # with a STORE that has them"


def _views_of(store: "TargetStore") -> list[str]:
    """What makes the same views where no store says it."""
    manifest = store.manifest
    words = [*recipe_words(manifest), "--view-seed", str(manifest.view_seed)]
    return [*words, "--views", str(store.num_views)] if store.num_views else words


def recipe_words(manifest: "Manifest") -> list[str]:
    """What chooses a store's recipe on the command line: its name, and each parameter that the
    name alone would not give for its dataset; all of them where the dataset is not known here."""
    from kdcache.datasets import view_parameters_of
    from kdcache.views import RECIPES

    described = manifest.recipe
    recipe, usual = RECIPES.get(described["name"]), view_parameters_of(manifest.dataset["name"])
    words = ["--recipe", _named(described["name"])]
    for field in dataclasses.fields(recipe) if recipe is not None else ():
        value = described.get(field.name, field.default)
        if field.name == "seed" or type(value) not in (bool, int, float):
            continue
        if usual is None or value != usual.get(field.name, field.default):
            words += ["--recipe-option", f"{field.name}={str(value).lower()}"]
    return words


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
    words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    return (*words, "--flip-test") if shape.get("flip_test") is True else tuple(words)


def _named(name: str) -> str:
    return "MODULE:FACTORY" if runs_code(name) else name
