"""Runs of students: each trained or found, the command that makes it again, and their table.

An arm is one way to train the student; its runs differ in their seeds. A run's folder is the only
truth: a finished run is read, an unfinished one gone on with.
"""

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import kdcache
from kdcache import durable
from kdcache.cli import main as kdcache_cli
from kdcache.devices import resolve_device
from kdcache.encode import HEATMAPS
from kdcache.train import headline, with_defaults
from kdcache.train.beginnings import running_environment
from kdcache.train.run_folder import RunFolder
from pipelines.stages import ShouldStop, tell_epoch
from pipelines.tables import markdown_table, mean_and_error


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student: its test number (`measure`, percent) after the `last` epoch, and the `best`."""

    arm: str
    seed: int
    last: float
    best: float
    minutes: float
    folder: str
    command: str
    measure: str = "test top-1"


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """An arm's n runs: mean of their last epochs with its standard error, of bests, of minutes."""

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
    measure, last = headline(records[-1])
    assert last is not None, "the last epoch is always evaluated"
    return Run(
        arm=arm,
        seed=config.seed,
        last=last,
        best=max(value for _, value in map(headline, records) if value is not None),
        minutes=sum(r["seconds"] for r in records) / 60,
        folder=config.run_folder,
        command=command_of(config),
        measure=measure,
    )


def command_of(config: kdcache.TrainConfig) -> str:
    """The `kdcache train-student` command of this run; what is its task's default is left out."""
    default = replace(
        kdcache.TrainConfig(**with_defaults({"dataset": config.dataset})), dataset=None
    )
    values = {
        field.name: value
        for field in fields(config)
        if (value := getattr(config, field.name)) != getattr(default, field.name)
    }
    values |= values.pop("switches", {})
    files = values.pop("checkpoints", {})
    recipe_options = values.pop("recipe_options", {})
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
    for name, value in recipe_options.items():
        words += ["--recipe-option", f"{name}={str(value).lower()}"]
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


def mentors_table(
    store: kdcache.TargetStore, mentors: Sequence[str], tested: Mapping[str, float | None]
) -> str:
    """The mentors as the store has them, and its bytes, in Markdown.

    `tested`: of people's mentors the test number (percent) where it is known; a store tells how
    right classifiers are, and nothing of heatmaps.
    """
    found = {mentor["name"]: mentor for mentor in kdcache.inspect_store(store)["mentors"]}
    sizes = {name: sum(kind["bytes"] for kind in found[name]["kinds"].values()) for name in mentors}
    header = ["mentor", "top-1 on its cached views", "views", "bytes"]
    right = {name: found[name]["accuracy"] for name in mentors}
    if store.manifest.primary is HEATMAPS:
        header[1], right = "on the test split", {name: tested.get(name) for name in mentors}
    rows = [
        [
            name,
            "" if right[name] is None else f"{right[name]:.2f}",
            f"{found[name]['views']}",
            f"{sizes[name]:,}",
        ]
        for name in mentors
    ]
    rows.append(["all", "", "", f"{sum(sizes.values()):,}"])
    return markdown_table(header, rows)


def write_results(
    folder: Path, title: str, store: kdcache.TargetStore, mentors: Sequence[str], runs: list[Run],
    device: str, *, tested: Mapping[str, float | None] | None = None, note: str = "",
) -> str:  # fmt: skip
    """Writes results.md, results.csv (a line a run) and results.json into `folder`.

    Returns results.md's text. Hardware and versions are this machine's; every run's folder says
    where that one was trained. `tested`: as `mentors_table` has it; `note`: a sentence on what the
    numbers are.
    """
    environment = running_environment(resolve_device(device))
    machine = ", ".join(f"{key} {value}" for key, value in environment.items())
    summaries = summarise(runs)
    (measure,) = {run.measure for run in runs}
    sentences = (f"{measure[0].upper()}{measure[1:]} in percent.", note, f"{machine}.")
    said = " ".join(sentence for sentence in sentences if sentence)
    commands = "\n".join(f"    {run.command}" for run in runs)
    text = (
        f"# {title}\n\n{mentors_table(store, mentors, tested or {})}\n\n{arms_table(summaries)}\n\n"
        f"{said}\n\nEach run again:\n\n{commands}\n"
    )
    inspected = kdcache.inspect_store(store)
    inspected["path"] = str(store.root)
    results: dict[str, Any] = {
        "title": title,
        "note": note,
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
