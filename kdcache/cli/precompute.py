"""`kdcache precompute`."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import (
    ENCODERS_HELP,
    NameList,
    checkpoint_option,
    config_option,
    dataset_options,
    device_option,
    fidelity_option,
)
from kdcache.cli.printing import print_calibration, tell, tell_all
from kdcache.cli.progress import progress_line, readable_bytes, readable_seconds
from kdcache.cli.reusing import chosen_hub, hub_options, offer, take, tell_offer
from kdcache.cli.stopping import stop_on_signals
from kdcache.cli.stores import print_mentors
from kdcache.cli.view_options import flip_test_option, recipe_option, recipe_parameters_option

if TYPE_CHECKING:
    from kdcache.reusing import ReuseJob


@click.command()
@click.option(
    "--mentors",
    type=NameList(),
    required=True,
    help="Mentors to run, such as r110,wrn40 or vgg13,resnet50.",
)
@dataset_options
@click.option("--split", default="train", show_default=True, help="train or test.")
@click.option("--views", type=int, help="Views a sample.  [default: the store's, else 40]")
@recipe_option
@recipe_parameters_option
@click.option("--view-seed", type=int, help="Of the views.  [default: the store's, else 0]")
@click.option(
    "--encoder",
    help=f"{ENCODERS_HELP}  Of poses heatmap8, float16 or float32.  [default: the store's, else "
    "float16, heatmap8]",
)
@fidelity_option
@click.option(
    "--store", type=click.Path(), help="The store's folder.  [default: under $KDCACHE_HOME/stores]"
)
@click.option("--features", is_flag=True, help="Keep the mentors' pooled features too.")
@click.option("--keep-logsumexp", is_flag=True, help="Keep each row's logsumexp: raw logits.")
@flip_test_option
@checkpoint_option
@click.option(
    "--samples",
    type=int,
    help="The first N samples, balanced; of people the first N.  [default: all]",
)
@click.option(
    "--batch-size",
    type=int,
    help="Rows of a forward pass.  [default: the store's, else 256; poses: 64]",
)
@device_option
@click.option("--precision", help="fp32, bf16 or fp16.  [default: the store's, else fp32]")
@hub_options
@click.option("--dry-run", is_flag=True, help="Say what would be computed, and stop.")
@config_option
def precompute(**options: Any) -> None:
    """Run the mentors once over every view a store lacks.

    What is committed is skipped, so the same command goes on after an interruption, a new mentor
    joins the views that are there, and more views are appended. So do features or logsumexps; a
    mentor that has them is given them for every view from then on. With a hub, what it has of
    exactly this is taken instead, and so is the checkpoint of a mentor that has none here.
    """
    hub = chosen_hub(options["hub"], options["no_hub"], options["push"])
    with stop_on_signals() as stop, ExitStack() as stack:
        from kdcache.errors import Stopped

        reuse: ReuseJob | None = None
        if hub is None:
            job = _make_job(options)
        else:
            reuse = _make_reuse_job(options, hub, stack)
            job = reuse.job
        _print_plan(job, reuse)
        if options["dry_run"]:
            _print_estimate(job, reuse)
            return
        if reuse is not None:
            take(reuse, stop)
        with progress_line("views") as progress:
            result = job.run(progress=progress, should_stop=stop)
        for path in result.healed:
            click.echo(f"made anew: {path}")
        if result.stopped:
            raise Stopped(
                f"stopped; every finished block is committed in {job.root}. Run the same command "
                "again to go on"
            )
        if result.num_pixels:
            ran = [one for one in job.plan.wanted if job.plan.new[one.title]]
            primary = {one.mentor.name for one in ran if one.kind.primary}
            # What always comes along is told by the mentor's name alone.
            names = [
                one.title
                for one in ran
                if one.kind.primary or one.kind.option or one.mentor.name not in primary
            ]
            tell(
                f"ran {', '.join(names)} over {result.num_pixels:,} views in "
                f"{readable_seconds(result.seconds)}, "
                f"{result.num_pixels / result.seconds:,.0f} a second"
            )
        else:
            tell("nothing to compute: everything asked for is committed")
        print_mentors(result.store)
        if reuse is not None and options["push"]:
            offer(reuse, stop)


def _make_job(options: dict[str, Any]) -> Any:
    from kdcache.mentors import load_mentors
    from kdcache.precompute import PrecomputeJob

    dataset, names, checkpoints = _inputs(options)
    mentors = load_mentors(names, dataset, checkpoints)
    return PrecomputeJob(dataset, mentors, **_job_options(options))


def _make_reuse_job(options: dict[str, Any], hub: str, stack: ExitStack) -> Any:
    """`stack`: keeps what a dry run had to fetch as long as the job may read it."""
    from kdcache.reusing import ReuseJob
    from kdcache.share import Hub

    place = Hub(hub)
    if options["push"]:
        place.connection.require_writable()
        place.is_begun()  # or can be: said now, not after hours
    dataset, names, checkpoints = _inputs(options)
    scratch = None
    if options["dry_run"]:  # nothing stays
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdcache-")))
    return ReuseJob(
        dataset,
        names,
        place,
        checkpoints=checkpoints,
        may_begin=options["push"] or options["hub"] is None,  # $KDCACHE_HUB may be new
        scratch=scratch,
        **_job_options(options),
    )


def _inputs(options: dict[str, Any]) -> tuple[Any, list[str], Any]:
    """The dataset, the mentors' names, and the checkpoints that are given."""
    from kdcache.datasets import open_dataset
    from kdcache.mentor_library import mentor_name, parse_checkpoints, require_all_used

    names = [mentor_name(name) for name in options["mentors"]]  # a typing mistake shows at once
    checkpoints = parse_checkpoints(options["checkpoint"])
    require_all_used(checkpoints, names)
    dataset = open_dataset(
        options["dataset"] or _dataset_of(options["store"]),
        options["split"],
        data_dir=options["data_dir"],
        samples=options["samples"],
    )
    return dataset, names, checkpoints


def _job_options(options: dict[str, Any]) -> dict[str, Any]:
    names = ("store", "views", "recipe", "view_seed", "encoder", "fidelity", "device", "precision")
    kinds = ("features", "keep_logsumexp", "flip_test")
    return {name: options[name] for name in (*names, *kinds, "batch_size", "recipe_options")}


def _dataset_of(store: str | None) -> str:
    """The dataset an existing store is of, else CIFAR-100."""
    from kdcache.datasets import DEFAULT_DATASET
    from kdcache.factories import require_named
    from kdcache.store import is_store, local_path, open_store

    if store is not None and is_store(local_path(store)):
        name: str = open_store(store).manifest.dataset["name"]
        return require_named(name, option="--dataset", origin=f"store {store}")
    return DEFAULT_DATASET


def _print_plan(job: Any, reuse: "ReuseJob | None") -> None:
    plan = job.plan
    for calibration in job.calibrations.values():
        print_calibration(calibration)
    dataset = plan.manifest.dataset
    for line in job.dataset.report:
        tell(f"{dataset['name']} ({dataset['split']}): {line}")
    tell(
        f"store {plan.store}\n"
        f"{plan.views} views of {dataset['num_samples']:,} samples of {dataset['name']} "
        f"({dataset['split']}), recipe {plan.manifest.recipe['name']}, view seed "
        f"{plan.manifest.view_seed}, encoder {', '.join(plan.encoders)}, on {job.pool.device}"
    )
    if reuse is not None:
        tell_offer(reuse)
    tell_all([f"warning: {warning}" for warning in job.warnings], err=True)
    for one in plan.wanted:
        taken = 0 if reuse is None else reuse.num_chunks(*one.key)
        tell(
            f"  {one.title}: {plan.reused[one.title]} chunks reused, "
            + (f"{taken} to take from the hub, " if taken else "")
            + f"{plan.new[one.title] - taken} to compute"
        )
    tell(f"to write: {readable_bytes(plan.bytes_to_write)}")


def _print_estimate(job: Any, reuse: "ReuseJob | None") -> None:
    seconds = job.estimated_seconds(None if reuse is None else reuse.takeable)
    tell(f"to run: about {readable_seconds(seconds)}, measured on one batch; nothing written")
