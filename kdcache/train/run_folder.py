"""A run's folder: its resolved config, its records, its checkpoint and its student.

config.toml          everything that decides the run, and the [environment] it ran in
metrics.jsonl        one record an epoch
checkpoint.pt        all state, to go on from (tensors and plain values only)
student.safetensors  the finished student
"""

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from kdcache import durable
from kdcache.config import as_toml_values, read_toml, write_toml
from kdcache.errors import CheckpointError, UsageError, both_sides, differences
from kdcache.train.train_config import TrainConfig

# Where a run may differ from itself when it goes on: none of these decides what is computed.
_FREE = ("out", "data_dir", "device", "checkpoints")


class RunFolder:
    """Files of one run; every one appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.metrics = root / "metrics.jsonl"
        self.checkpoint = root / "checkpoint.pt"
        self.student = root / "student.safetensors"

    def adopt(self, config: TrainConfig) -> TrainConfig:
        """`config` with what it leaves open as the run in this folder has it.

        A store that has grown since does not change a run that goes on.
        """
        if not self.checkpoint.exists():
            return config
        recorded = self._recorded()
        left_open = [f.name for f in fields(config) if getattr(config, f.name) is None]
        found = {name: recorded[name] for name in left_open if name in recorded}
        found = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return replace(config, **found)

    def claim(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Writes the resolved config, or finds that this folder's run has the same one.

        A run that never saved a checkpoint has nothing to lose and is replaced. Raises UsageError
        with both sides when the folder holds another run.
        """
        ours = as_toml_values(config)
        if self.checkpoint.exists():
            different = differences(self._recorded(), ours, ignored=_FREE)
            if different:
                raise UsageError(
                    f"{self.root} holds another run:\n"
                    f"{both_sides(str(self.root), 'this command', different)}\n"
                    "Choose another --out, or give that run's options to go on with it"
                )
            return
        try:
            write_toml(self.config, {**ours, "environment": environment})
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.root} ({error.strerror}); choose another --out"
            ) from error

    def _recorded(self) -> dict[str, Any]:
        recorded = read_toml(self.config)
        recorded.pop("environment", None)
        return recorded

    def environment(self) -> dict[str, Any]:
        """The environment the run began in."""
        found = read_toml(self.config).get("environment", {})
        return found if isinstance(found, dict) else {}

    def append_record(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_records_before(self, epoch: int) -> None:
        """Drops records of epochs that will run again, so that none appears twice."""
        if self.metrics.exists():
            kept = [r for r in self.records() if r["epoch"] < epoch]
            lines = "".join(json.dumps(record) + "\n" for record in kept)
            durable.write_file(self.metrics, lines.encode())

    def records(self) -> list[dict[str, Any]]:
        """All records so far; a last line that a kill cut short is left out."""
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint by `state` (tensors and plain values)."""
        temporary = durable.aside(self.checkpoint)
        try:
            with open(temporary, "xb") as file:
                torch.save(state, file)
            durable.fsync_file(temporary)
            durable.publish(temporary, self.checkpoint)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last saved state, on the CPU; None before the first. Runs no code of the file's."""
        if not self.checkpoint.exists():
            return None
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can raise anything
            raise CheckpointError(
                f"{self.checkpoint} cannot be read ({type(error).__name__}); remove {self.root} to "
                "train anew"
            ) from error
        assert isinstance(state, dict)
        return state
