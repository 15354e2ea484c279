"""`kdcache train-student`, `train-mentor` and `evaluate`."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kdcache.cli.loop_options import loop_options
from kdcache.cli.method_switches import switch_options, take_switches
from kdcache.cli.options import (
    NameList,
    SeedList,
    checkpoint_option,
    config_option,
    dataset_options,
    device_option,
    samples_option,
)
from kdcache.cli.printing import tell
from kdcache.cli.progress import progress_line, readable_seconds
from kdcache.cli.stopping import stop_on_signals
from kdcache.cli.view_options import decoder_option, flip_test_option, recipe_parameters_option

if TYPE_CHECKING:
    from kdcache.train import TrainConfig


@click.command("train-student")
@click.option(
    "--student",
    help="The network to train, such as r20, wrn16, vgg8 or mobilenetv2; of poses lp18, mbpose or "
    "sb18.  [default: r20; poses: lp18]",
)
@dataset_options
@samples_option
@click.option(
    "--store",
    type=click.Path(),
    help="The store to train from: a folder, or a URL (http, https, s3, gs, sftp).  [default: the "
    "one under $KDCACHE_HOME/stores that fits]",
)
@click.option("--mentors", type=NameList(), help="Which mentors teach.  [default: the store's]")
@click.option(
    "--method",
    default="classroom",
    show_default=True,
    help="classroom, ce, kd, average, soft, ca-mkd, ebkd, dkd, dist, logit-mse or amtml; of poses "
    "classroom, ce, kd or average.",
)
@click.option(
    "--targets",
    default="cache",
    show_default=True,
    help="cache: from the store; online: run the mentors at every step, on the same views.",
)
@checkpoint_option
@click.option(
    "--window",
    type=int,
    metavar="SAMPLES",
    help="Hold targets of about so many samples in memory instead of whole views; it decides the "
    "order of the samples.  [default: whole views]",
)
@loop_options
@switch_options
@click.option(
    "--per-class",
    is_flag=True,
    help="Records tell each mentor's share and weight class by class, too.",
)
@device_option
@click.option(
    "--seeds",
    type=SeedList(),
    help="Several students side by side, one a seed, from one view in memory; with --out each in "
    "<out>/s<seed>.  [default: --seed alone]",
)
@click.option(
    "--out", type=click.Path(), help="Run folder.  [default: runs/<student>-<method>-s<seed>]"
)
@config_option
def train_student(**options: Any) -> None:
    """Train a student from a store, without loading a mentor.

    Run again, the same command goes on with an unfinished run exactly where it stopped.
    """
    with stop_on_signals() as stop:
        from kdcache.mentor_library import parse_checkpoints
        from kdcache.train import TrainConfig, with_defaults
        from kdcache.train import train_sweep as train

        resume = options.pop("resume")
        checkpoints = {k: str(v) for k, v in parse_checkpoints(options.pop("checkpoint")).items()}
        switches = take_switches(options)
        seeds = options.pop("seeds")
        config = TrainConfig(
            **with_defaults(
                {**options, "switches": switches, "checkpoints": checkpoints},
                folder=options["out"] if seeds is None else _folder_of(options["out"], seeds[0]),
            )
        )
        configs = [config] if seeds is None else _one_a_seed(config, seeds)
        if resume:
            _require_begun([each.run_folder for each in configs])
        with progress_line("steps") as progress:
            records = train(configs, should_stop=stop, notify=tell, progress=progress)
            _print_records(records, name_seeds=len(configs) > 1)
        last = [_print_summary(Path(each.run_folder)) for each in configs]
        if len(last) > 1:
            values = [value for _, value in last]
            tell(
                f"last epoch over {len(last)} seeds: {last[0][0]} {statistics.mean(values):.2f}, "
                f"standard deviation {statistics.stdev(values):.2f}"
            )


@click.command("train-mentor")
@click.argument("name")
@dataset_options
@samples_option
@loop_options
@device_option
@click.option("--out", type=click.Path(), help="Run folder.  [default: under $KDCACHE_HOME/runs]")
@config_option
def train_mentor(name: str, **options: Any) -> None:
    """Train network NAME on labels; its checkpoint and sidecar go into the mentor library."""
    with stop_on_signals() as stop:
        from kdcache.train import TrainConfig, with_defaults
        from kdcache.train import train_mentor as train
        from kdcache.train.mentor import default_run_folder, library_checkpoint

        resume = options.pop("resume")
        options["out"] = options["out"] or str(default_run_folder(name, options))
        config = TrainConfig(**with_defaults({**options, "student": name, "method": "ce"}))
        if resume:
            _require_begun([config.run_folder])
        with progress_line("steps") as progress:
            records = train(name, should_stop=stop, notify=tell, progress=progress, **options)
            _print_records((config, record) for record in records)
        _print_summary(Path(config.run_folder))
        tell(f"mentor {library_checkpoint(name, config.dataset)}")


@click.command()
@click.argument("checkpoint")
@click.option("--network", help="Its network.  [default: what the file says, else its name]")
@click.option("--dataset", help="Its dataset.  [default: what the file says, else its folder]")
@click.option("--data-dir", help="Folder that holds the dataset.  [default: $KDCACHE_DATA]")
@click.option("--split", default="test", show_default=True, help="train or test.")
@device_option
@click.option("--precision", default="fp32", show_default=True, help="fp32, bf16 or fp16.")
@decoder_option
@flip_test_option
@recipe_parameters_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def evaluate(checkpoint: str, as_json: bool, **options: Any) -> None:
    """Accuracy of a student (run folder or student.safetensors) or of a mentor's checkpoint.

    Of people: AP and AR of coco-keypoints by COCO's own evaluator, PCKh@0.5 of mpii, on the
    annotated boxes.
    """
    from kdcache.train import evaluate_checkpoint

    given = {name: value for name, value in options.items() if value not in (None, {})}
    found = evaluate_checkpoint(checkpoint, **given)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if "top1" not in found:
        names = [key for key in found if isinstance(found[key], float)]
        tell(
            f"{found['network']} on {found['dataset']} ({found['split']}, {found['samples']:,} "
            f"people, {found['height']} x {found['width']}): "
            + ", ".join(f"{name.replace('_', ' ')} {found[name]:.2f}" for name in names)
        )
        return
    tell(
        f"{found['network']} on {found['dataset']} ({found['split']}, {found['samples']:,} "
        f"samples): top-1 {found['top1']:.2f}, top-5 {found['top5']:.2f}, loss {found['loss']:.4f}"
    )


def _require_begun(run_folders: list[str]) -> None:
    """`--resume` means that there must be something to go on with."""
    from kdcache.errors import UsageError
    from kdcache.train.run_folder import RunFolder

    if not any(RunFolder(Path(folder)).checkpoint.exists() for folder in run_folders):
        raise UsageError(
            f"--resume: {', '.join(run_folders)} has no checkpoint to go on from; leave --resume "
            "out to start, or name the run's folder with --out"
        )


def _one_a_seed(config: "TrainConfig", seeds: tuple[int, ...]) -> list["TrainConfig"]:
    """The same run for each seed; UsageError where --seed says another thing."""
    from kdcache.errors import UsageError

    if click.get_current_context().get_parameter_source("seed") is ParameterSource.COMMANDLINE:
        raise UsageError("--seed and --seeds are both given; leave one out")
    return [replace(config, seed=seed, out=_folder_of(config.out, seed)) for seed in seeds]


def _folder_of(out: str | None, seed: int) -> str | None:
    """The run folder of one of several seeds."""
    return None if out is None else str(Path(out) / f"s{seed}")


def _print_records(
    records: Iterable[tuple["TrainConfig", dict[str, Any]]], *, name_seeds: bool = False
) -> None:
    from kdcache.classroom import has_filter
    from kdcache.train import headline
    from kdcache.train.tally import filter_warnings
    from kdcache.train.task_defaults import task_of

    told: set[str] = set()
    filtering: dict[str, bool] = {}  # by run folder: asking may open a store
    for config, record in records:
        if config.run_folder not in filtering:
            task = task_of(config.dataset, config.store, config.out)
            filtering[config.run_folder] = has_filter(config.method, task=task, **config.switches)
        filters = filtering[config.run_folder]
        seed = f"seed {config.seed}  " if name_seeds else ""
        name, value = headline(record)
        tested = "" if value is None else f"  {name} {value:.2f}"
        tell(
            f"{seed}epoch {record['epoch'] + 1}/{config.epochs}  view {record['view']}  "
            f"lr {record['lr']:.5f}  "
            f"loss {record['train_loss']:.4f} (task {record['task_loss']:.4f}, mentors "
            f"{record['mentor_loss']:.4f}){tested}  {readable_seconds(record['seconds'])}"
        )
        for what, sentence in filter_warnings(record).items() if filters else ():
            if what not in told:
                told.add(what)
                tell(f"warning: {what} in epoch {record['epoch'] + 1}: {sentence}", err=True)


def _print_summary(run_folder: Path) -> tuple[str, float]:
    """Tells how a run ended; what its number is called, and the last one."""
    from kdcache.train import headline
    from kdcache.train.run_folder import RunFolder

    records = RunFolder(run_folder).records()
    name, last = headline(records[-1])
    assert last is not None, "the last epoch is always evaluated"
    best = max(value for _, value in map(headline, records) if value is not None)
    tell(f"last epoch: {name} {last:.2f}  (best epoch: {best:.2f})  {run_folder}")
    return name, float(last)
