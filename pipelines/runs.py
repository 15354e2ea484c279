"""Runs of students: each trained or found, the command that makes it again, and their table.

An arm is one way to train the student; its runs differ in their seeds. A run's folder is the only
truth: a finished run is read, an unfinished one gone on with.
"""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import kdcache
from kdcache import durable
from kdcache.cli import main as kdcache_cli
from kdcache.devices import resolve_device
from kdcache.train.beginnings import running_environment
from kdcache.train.run_folder import RunFolder
from pipelines.stages import ShouldStop, tell_epoch
from pipelines.tables import markdown_table, mean_and_error


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student: test top-1 in percent after the `last` epoch, and the `best` of any epoch."""

    arm: str
    seed: int
    last: float
    best: float
    minutes: float
    folder: str
    command: str


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """An arm's n runs: mean last-epoch top-1 with its standard error, mean best, mean minutes."""

    arm: str
    n: int
    last: float
    standard_error: float | None
    best: float
    minutes: float


def train_run(arm: str, config: kdcache.TrainConfig, stop: ShouldStop) -> Run:
    """Trains what of the run is left, and reads it. Errors as `kdcache.train_student`'s."""
    for record in kdcache.train_student(config, should_stop=stop):
        tell_epoch(f"{arm}, seed {config.seed}", record, config.epochs)
    records = RunFolder(Path(config.run_folder)).records()
    return Run(
        arm=arm,
        seed=config.seed,
        last=records[-1]["test_top1"],
        best=max(r["test_top1"] for r in records if r["test_top1"] is not None),
        minutes=sum(r["seconds"] for r in records) / 60,
        folder=config.run_folder,
        command=command_of(config),
    )


def command_of(config: kdcache.TrainConfig) -> str:
    """The `kdcache train-student` command of this run; what is default is left out."""
    default = kdcache.TrainConfig()
    values = {
        field.name: value
        for field in fields(config)
        if (value := getattr(config, field.name)) != getattr(default, field.name)
    }
    values |= values.pop("switches", {})
    files = values.pop("checkpoints", {})
    options = {p.name: p for p in kdcache_cli.commands["train-student"].params}
    words = ["kdcache", "train-student"]
    for name, value in values.items():
        option = options[name]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        elif isinstance(value, tuple):
            words += [option.opts[0], ",".join(map(str, value))]
        else:
            words += [option.opts[0], str(value)]
    for name, file in files.items():
        words += ["--checkpoint", f"{name}={file}"]
    return shlex.join(words)


def summarise(runs: Sequence[Run]) -> list[ArmSummary]:
    """One summary an arm, in the order in which the arms first appear."""
    summaries = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        last, standard_error = mean_and_error([run.last for run in own])
        summaries.append(
            ArmSummary(
                arm=arm,
                n=len(own),
                last=last,
                standard_error=standard_error,
                best=mean_and_error([run.best for run in own])[0],
                minutes=mean_and_error([run.minutes for run in own])[0],
            )
        )
    return summaries


def arms_table(summaries: Sequence[ArmSummary]) -> str:
    """The summaries in Markdown."""
    header = ["arm", "last epoch", "standard error", "n", "best epoch", "minutes a run"]
    rows = [
        [
            summary.arm,
            f"{summary.last:.2f}",
            "" if summary.standard_error is None else f"{summary.standard_error:.2f}",
            str(summary.n),
            f"{summary.best:.2f}",
            f"{summary.minutes:.1f}",
        ]
        for summary in summaries
    ]
    return markdown_table(header, rows)


def mentors_table(store: kdcache.TargetStore, mentors: Sequence[str]) -> str:
    """The mentors as the store has them, and its bytes, in Markdown."""
    found = {mentor["name"]: mentor for mentor in kdcache.inspect_store(store)["mentors"]}
    sizes = {name: sum(kind["bytes"] for kind in found[name]["kinds"].values()) for name in mentors}
    rows = [
        [name, f"{found[name]['accuracy']:.2f}", f"{found[name]['views']}", f"{sizes[name]:,}"]
        for name in mentors
    ]
    rows.append(["all", "", "", f"{sum(sizes.values()):,}"])
    return markdown_table(["mentor", "top-1 on its cached views", "views", "bytes"], rows)


def write_results(
    folder: Path, title: str, store: kdcache.TargetStore, mentors: Sequence[str], runs: list[Run],
    device: str,
) -> str:  # fmt: skip
    """Writes results.md, results.csv (a line a run) and results.json into `folder`.

    Returns results.md's text. Hardware and versions are this machine's; every run's folder says
    where that one was trained.
    """
    environment = running_environment(resolve_device(device))
    machine = ", ".join(f"{key} {value}" for key, value in environment.items())
    summaries = summarise(runs)
    commands = "\n".join(f"    {run.command}" for run in runs)
    text = (
        f"# {title}\n\n{mentors_table(store, mentors)}\n\n{arms_table(summaries)}\n\n"
        f"Test top-1 in percent. {machine}.\n\nEach run again:\n\n{commands}\n"
    )
    inspected = kdcache.inspect_store(store)
    inspected["path"] = str(store.root)
    results: dict[str, Any] = {
        "title": title,
        "environment": environment,
        "store": inspected,
        "arms": [asdict(summary) for summary in summaries],
        "runs": [asdict(run) for run in runs],
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Run)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(run) for run in runs)
    durable.write_file(folder / "results.md", text.encode())
    durable.write_file(folder / "results.csv", table.getvalue().encode())
    durable.write_file(folder / "results.json", json.dumps(results, indent=2).encode())
    return text
