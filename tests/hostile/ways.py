"""Every way into a store, as a user goes: the library's calls and the command lines."""

import json
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import kdcache.factories
from kdcache.cli import main
from kdcache.errors import KdcacheError
from kdcache.inspection import inspect_store
from kdcache.loader import ReplayLoader
from kdcache.precompute import PrecomputeJob
from kdcache.store import TargetStore, open_store, verify_store, write_commit_index
from kdcache.stream import TargetStream
from kdcache.train import train_student
from kdcache.verification import verify
from tests.hostile.good import Good

MOST_TEXT = 11_000  # characters of one message
Way = Callable[[Path, Good, Path], str]  # (store, what is at hand, a folder to write in) -> "" or
# why the store was refused


class Wrong(Exception):
    """A way ended otherwise than in a result or one clear error."""


def refuse_factories() -> None:
    """A module named by a store is imported by nobody: the user named none."""

    def import_module(name: str) -> object:
        raise Wrong(f"{name} was imported")

    proxy = types.SimpleNamespace(import_module=import_module, invalidate_caches=lambda: None)
    vars(kdcache.factories)["importlib"] = proxy


def as_library(way: Callable[[Path, Good, Path], object]) -> Way:
    """A call of the library: it ends in a result or one error."""

    def run(root: Path, good: Good, folder: Path) -> str:
        try:
            way(root, good, folder)
        except KdcacheError as error:
            require_plain_text(str(error))
            return f"{type(error).__name__}: {error}"
        return ""

    return run


def as_command(line: Callable[[Path, Good, Path], list[object]]) -> Way:
    """A command line: it ends with exit code 0, 1 or 2, and no traceback."""

    def run(root: Path, good: Good, folder: Path) -> str:
        words = [str(word) for word in line(root, good, folder)]
        done = CliRunner().invoke(main, words)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code not in (0, 1, 2):
            raise Wrong(f"exit code {done.exit_code}")
        for text in (done.stdout, done.stderr):
            require_plain_text(text)
        if done.exit_code and done.stderr.count("Error: ") + ("damaged" in done.stdout) < 1:
            raise Wrong(f"no message: {done.output[:300]!r}")
        return f"exit code {done.exit_code}: {done.output}" if done.exit_code else ""

    return run


def require_plain_text(text: str) -> None:
    """Raises Wrong for what a terminal would obey, and for what is too long to be read."""
    if "Traceback" in text:
        raise Wrong(f"a traceback: {text[-300:]!r}")
    if len(text) > MOST_TEXT and not text.startswith("{"):  # --json lists all
        raise Wrong(f"a message of {len(text):,} characters: {text[:120]!r}")
    if "TOKEN" in text:
        raise Wrong(f"it tells what lies outside the store: {text[:120]!r}")
    bad = [c for c in text if not (c.isprintable() or c == "\n")]
    if bad:
        raise Wrong(f"control characters {bad[:3]} in {text[:120]!r}")


def _open(root: Path, good: Good, folder: Path) -> object:
    store = open_store(root)
    for stored in store.sound_targets:
        stored.complete_views(store.manifest.num_blocks)
    return store.fingerprint, store.mentors, store.num_views, store.num_samples, store.recipe


def _lists(root: Path, good: Good, folder: Path) -> object:
    store = open_store(root)
    return store.index_N, store.labels_N


def _targets(root: Path, good: Good, folder: Path) -> object:
    store = open_store(root)
    refused = None
    for name in store.mentors:
        try:
            store.targets(1, store.index_N[[0, -1]], [name])
        except KdcacheError as error:
            refused = error
    if refused is not None:
        raise refused
    return store


def _verify_store(root: Path, good: Good, folder: Path) -> object:
    return _require_sound(verify_store(root).damaged)


def _verify(root: Path, good: Good, folder: Path) -> object:
    found = verify(root)
    json.dumps(found.to_json(), allow_nan=False)
    for skipped in found.not_checked:
        require_plain_text(skipped.replace("\n", ""))
    return _require_sound(found.damaged)


def _require_sound(damaged: object) -> object:
    if damaged:
        raise KdcacheError(f"{str(damaged)[:500]!a}")
    return damaged


def _inspect(root: Path, good: Good, folder: Path) -> object:
    found = inspect_store(open_store(root))
    json.dumps(found, allow_nan=False)
    return found["warnings"]


def _stream(root: Path, good: Good, folder: Path) -> object:
    stream = TargetStream(root, device="cpu")
    with stream.view(stream.views[0]) as targets:
        return targets[good.dataset.index_N[:3]]


def _loader(root: Path, good: Good, folder: Path) -> object:
    return list(ReplayLoader(good.dataset, root, batch_size=20, device="cpu"))


def _index(root: Path, good: Good, folder: Path) -> object:
    for stored in open_store(root).sound_targets:
        write_commit_index(stored.array, stored.commits.values())
    return None


def _kinds(root: Path, good: Good, folder: Path) -> object:
    store = open_store(root)
    for name in store.mentors:
        for kind in store.kinds(name):
            if kind == "features":
                store.targets(1, store.index_N[[0, -1]], [name], kind="features")
            elif kind == "logsumexp":
                store.targets(1, store.index_N[[0, -1]], [name], kind="logsumexp")
    return store


def _features(root: Path, good: Good, folder: Path) -> object:
    stream = TargetStream(root, ["r8"], device="cpu", features=True, raw_logits=True)
    with stream.view(stream.views[0]) as targets:
        return targets.gather_targets(good.dataset.index_N[:3])


def _plan(root: Path, good: Good, folder: Path) -> object:
    return PrecomputeJob(good.dataset, [good.mentor], store=root, device="cpu").plan


def _precompute(root: Path, good: Good, folder: Path) -> object:
    # Said, since a store may declare thousands of views, and they would be computed.
    job = PrecomputeJob(good.dataset, [good.mentor], store=root, views=2, device="cpu")
    store: TargetStore = job.run().store
    return store.targets(0, np.asarray(good.dataset.index_N[:2]), ["r8"])


def _train(root: Path, good: Good, folder: Path) -> object:
    return list(
        train_student(
            student="r8", store=str(root), epochs=1, batch_size=20, out=str(folder / "run"),
            device="cpu", mentors=("r8",),
        )
    )  # fmt: skip


def _mentor(root: Path, good: Good, folder: Path) -> list[object]:
    return ["--store", root, "--checkpoint", f"r8={good.checkpoint}", "--device", "cpu"]


def _student(root: Path, good: Good, folder: Path) -> list[object]:
    return ["train-student", "--student", "r8", "--epochs", 1, "--store", root, "--batch-size", 20,
            "--device", "cpu", "--out", folder / "run-2"]  # fmt: skip


READING: dict[str, Way] = {
    "open": as_library(_open),
    "lists": as_library(_lists),
    "targets": as_library(_targets),
    "verify_store": as_library(_verify_store),
    "verify": as_library(_verify),
    "inspect_store": as_library(_inspect),
    "stream": as_library(_stream),
    "kinds": as_library(_kinds),
    "stream of features": as_library(_features),
    "loader": as_library(_loader),
    "plan": as_library(_plan),
    "kdcache inspect": as_command(lambda root, good, folder: ["inspect", root]),
    "kdcache inspect --json": as_command(lambda root, good, folder: ["inspect", root, "--json"]),
    "kdcache verify": as_command(lambda root, good, folder: ["verify", root]),
    "kdcache verify --json": as_command(lambda root, good, folder: ["verify", root, "--json"]),
}
USING: dict[str, Way] = {
    "train_student": as_library(_train),
    "kdcache train-student": as_command(_student),
    "kdcache train-student --targets online": as_command(
        lambda root, good, folder: [
            *("train-student", "--student", "r8", "--epochs", 1, "--out", folder / "run-3"),
            *("--targets", "online", "--mentors", "r8", "--batch-size", 20),
            *_mentor(root, good, folder),
        ]
    ),
    "kdcache verify --recompute": as_command(
        lambda root, good, folder: [
            *("verify", root, "--recompute", 3, "--checkpoint", f"r8={good.checkpoint}"),
            *("--device", "cpu"),
        ]
    ),
    "kdcache precompute --dry-run": as_command(
        lambda root, good, folder: [
            *("precompute", "--mentors", "r8", "--samples", 40, "--dry-run"),
            *_mentor(root, good, folder),
        ]
    ),
}
WRITING: dict[str, Way] = {  # last: these heal
    "write_commit_index": as_library(_index),
    "precompute": as_library(_precompute),
    "kdcache precompute": as_command(
        lambda root, good, folder: [
            *("precompute", "--mentors", "r8", "--samples", 40, "--views", 2),
            *_mentor(root, good, folder),
        ]
    ),
}
