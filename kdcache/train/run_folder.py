"""A run's folder: its resolved config, its records, its checkpoint and its student.

config.toml          everything that decides the run, the [environment] it began in, and under it
                     what it is [trained_on]
metrics.jsonl        one record an epoch
checkpoint.pt        all state, to go on from (tensors and plain values only), with the run's
                     identity and the file's SHA-256
student.safetensors  the finished student
.lock                held by the process that trains
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdcache import durable
from kdcache.canonical import json_sha256
from kdcache.config import as_toml_values, read_toml, write_toml
from kdcache.errors import StoreMismatch, UsageError, both_sides, differences
from kdcache.train import checkpoint_file
from kdcache.train.beginnings import TARGETS
from kdcache.train.train_config import TrainConfig

# Where a run may differ from itself when it goes on: none of these decides what is computed. A
# store may move, for what is in it is compared instead.
_FREE = ("out", "data_dir", "device", "checkpoints", "store", "checkpoint_every")

# Options that came later, with the value that every run before them had.
_LATER: dict[str, Any] = {
    "compile": False,
    "optimizer": "sgd",
    "recipe_options": {},
    "decoder": "quarter",
    "flip_test": False,
}


def run_identity(config: TrainConfig, trained_on: dict[str, str]) -> str:
    """Hex SHA-256 of all that decides a run: its resolved config, and what it trains on.

    Two commands that may go on with one another's run have the same one.
    """
    decisive = {
        key: value
        for key, value in as_toml_values(config).items()
        if key not in _FREE and not (key in _LATER and value == _LATER[key])
    }
    return json_sha256({"config": _one_spelling(decisive), "trained_on": trained_on})


def _one_spelling(value: Any) -> Any:
    """Equal numbers alike: 1 and 1.0 are the same rate; TOML has infinities, JSON has none."""
    if isinstance(value, dict):
        return {key: _one_spelling(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_one_spelling(entry) for entry in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else value.hex()
    return value


class RunFolder:
    """Files of one run; every one appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.metrics = root / "metrics.jsonl"
        self.checkpoint = root / "checkpoint.pt"
        self.student = root / "student.safetensors"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes from training here; removes what a killed one was writing.

        The operating system frees the lock of a killed process. Raises UsageError when another
        one trains here, or when nothing can be written.
        """
        try:
            durable.make_folder(self.root)
            lock = FileLock(self.root / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"another process is training in {self.root}; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            for file in (self.config, self.metrics, self.checkpoint, self.student):
                for left_over in self.root.glob(f".{file.name}.*.tmp"):
                    left_over.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def adopt(self, config: TrainConfig) -> TrainConfig:
        """`config` with what it leaves open as the run in this folder has it.

        A store that has grown since does not change a run that goes on.
        """
        if not self.checkpoint.exists():
            return config
        recorded, _ = self._recorded()
        left_open = [f.name for f in fields(config) if getattr(config, f.name) is None]
        found = {name: recorded[name] for name in left_open if name in recorded}
        found = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return replace(config, **found)

    def comparable(self, trained_on: dict[str, str]) -> dict[str, str]:
        """What a run trains on, without what an earlier version did not state of the one here."""
        if not self.checkpoint.exists():
            return trained_on
        recorded = self._recorded()[1].get("trained_on")
        if not isinstance(recorded, dict) or TARGETS in recorded:
            return trained_on
        return {key: value for key, value in trained_on.items() if key != TARGETS}

    def claim(
        self, config: TrainConfig, environment: dict[str, Any], trained_on: dict[str, str]
    ) -> dict[str, Any]:
        """Writes the resolved config, or finds that this folder's run is the same one.

        A run that never saved a checkpoint has nothing to lose and is replaced. Returns the
        environment the run began in. Raises, with both sides, UsageError when the folder holds a
        run of another config, StoreMismatch when that run was trained on something else.
        """
        ours = as_toml_values(config)
        began = {**environment, "trained_on": trained_on}
        if self.checkpoint.exists():
            recorded, began = self._recorded()
            self._require_same_run(recorded, ours)
            self._require_same_targets(began.get("trained_on"), trained_on)
            if recorded == ours:
                return began
        try:
            write_toml(self.config, {**ours, "environment": began})
        except OSError as error:
            raise self._not_writable(error) from error
        return began

    def _recorded(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config of the run that is here, and the environment it began in."""
        try:
            recorded = read_toml(self.config)
        except UsageError as error:
            raise UsageError(
                f"{error}. {self.root} holds a run that cannot go on without it: put it back, or "
                "choose another --out"
            ) from error
        environment = recorded.pop("environment", {})
        return recorded, environment if isinstance(environment, dict) else {}

    def _require_same_run(self, recorded: dict[str, Any], ours: dict[str, Any]) -> None:
        different = differences({**_LATER, **recorded}, ours, ignored=_FREE)
        if different:
            raise UsageError(
                f"{self.root} holds another run:\n"
                f"{both_sides(str(self.root), 'this command', different)}\n"
                "Choose another --out, or give that run's options to go on with it"
            )

    def _require_same_targets(self, recorded: object, ours: dict[str, str]) -> None:
        different = differences(recorded if isinstance(recorded, dict) else {}, ours)
        if different.keys() > {TARGETS}:
            del different[TARGETS]  # of other mentors or views they are others anyway
        if different:
            raise StoreMismatch(
                f"{self.root} was trained on something else so far:\n"
                f"{both_sides('it began with', 'this command', different)}\n"
                "Name the store (--store), mentors and data it began with, or choose another --out"
            )

    def _not_writable(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write to {self.root} ({error.strerror}); choose another --out")

    def append_record(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def replace_records(self, records: list[dict[str, Any]]) -> None:
        """metrics.jsonl anew, whatever a kill or an editor left there."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        durable.write_file(self.metrics, lines.encode())

    def records(self) -> list[dict[str, Any]]:
        """All records so far; a last line that a kill cut short is left out."""
        records = []
        for line in self.metrics.read_bytes().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint by `state` (tensors and plain values)."""
        checkpoint_file.save_state(self.checkpoint, state)

    def load_checkpoint(self) -> object | None:
        """The last saved state, on the CPU, still to be checked; None before the first.

        Raises CheckpointError when it is damaged.
        """
        return checkpoint_file.load_state(self.checkpoint) if self.checkpoint.exists() else None
