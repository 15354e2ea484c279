"""Commands on stores: `kdcache inspect`, `kdcache verify`."""

import json
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.against import print_classroom
from kdcache.cli.options import NameList, ViewChoice, checkpoint_option, device_option
from kdcache.cli.printing import tell, tell_all
from kdcache.cli.progress import progress_line, readable_bytes
from kdcache.errors import UsageError, readable

if TYPE_CHECKING:
    from kdcache.store import TargetStore, Verification


@click.command()
@click.argument("store", metavar="STORE|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="Also tell which mentors would teach this student now, and on which classes: a run "
    "folder (its last saved step), a finished student, or a mentor's weights.",
)
@click.option(
    "--views", type=ViewChoice(), help="Views for it: the first N, or a list.  [default: the first]"
)
@click.option("--mentors", type=NameList(), help="Mentors for it.  [default: the store's]")
@click.option(
    "--tau", type=float, help="How much a full gap adds to the temperature.  [default: 12]"
)
@click.option("--network", help="Its network.  [default: what the file says, else its name]")
@click.option("--dataset", help="The dataset's name.  [default: as the store says]")
@click.option("--data-dir", help="Folder that holds the dataset.  [default: $KDCACHE_DATA]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps.  [default: auto]")
def inspect(store: str, as_json: bool, against: str | None, **options: Any) -> None:
    """Show what a store holds: dataset, recipe, views, mentors, accuracy, bytes, completeness.

    With --against: who would teach a student, from the store and its data, without any mentor.
    """
    from kdcache.inspection import inspect_store
    from kdcache.store import open_store

    given = {name: value for name, value in options.items() if value is not None}
    if given and against is None:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names}: only with --against CHECKPOINT; add it, or leave them out")
    opened = open_store(store)
    found = inspect_store(opened)
    if against is not None:
        from kdcache.against import inspect_classroom

        with progress_line("rows") as progress:
            found["against"] = inspect_classroom(opened, against, progress=progress, **given)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    dataset, recipe = found["dataset"], found["recipe"]
    tell(
        f"store        {opened.address}\n"
        f"format       {found['format']}\n"
        f"fingerprint  {found['fingerprint']}\n"
        f"dataset      {dataset['name']} ({dataset['split']}), {dataset['num_samples']:,} samples, "
        f"{dataset['num_classes']} {'joints' if 'joints' in dataset else 'classes'}\n"
        f"recipe       {_described(recipe)}, view seed {found['view_seed']}\n"
        f"views        {found['views']}, {'complete' if found['complete'] else 'not complete'}\n"
        f"bytes        {readable_bytes(found['bytes'])}\n"
        f"written by   {_listed(found['written_by'])}"
    )
    print_mentors(opened)
    if against is not None:
        tell("")
        print_classroom(found["against"])


@click.command()
@click.argument("store", metavar="STORE|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option(
    "--recompute",
    type=int,
    default=0,
    metavar="K",
    help="Also run each mentor at hand over K of its rows again.",
)
@click.option("--dataset", help="The dataset's name.  [default: as the store says]")
@click.option("--data-dir", help="Folder that holds the dataset.  [default: $KDCACHE_DATA]")
@checkpoint_option
@device_option
def verify(store: str, as_json: bool, recompute: int, **options: Any) -> None:
    """Check every byte of a store; and, where data and mentors are at hand, what it says.

    Exit code 0: everything is as it was written. 1: something is not; it is listed,
    with the command that makes exactly that anew.
    """
    from kdcache.mentor_library import parse_checkpoints
    from kdcache.verification import verify as verify_all

    with progress_line("bytes") as progress:
        found = verify_all(
            store,
            dataset=options["dataset"],
            data_dir=options["data_dir"],
            recompute=recompute,
            checkpoints=parse_checkpoints(options["checkpoint"]),
            device=options["device"],
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_verification(store, found)
    if not found.ok:
        raise click.exceptions.Exit(1)


def _print_verification(store: str, found: "Verification") -> None:
    if found.chunks:
        tell(f"{found.chunks:,} committed chunks, {readable_bytes(found.bytes)}: every byte read")
    if found.replayed:
        tell(f"{found.replayed} sampled views replayed: the dataset here is the store's")
    if found.recomputed:
        tell(f"{found.recomputed} rows of mentors computed again")
    for skipped in found.not_checked:
        tell(f"not checked: {skipped}", err=True)
    for name, count in found.missing.items():
        tell(f"not there yet: {count:,} chunks of mentor {name}")
    if found.ok:
        tell(f"{store} is sound" + (", as far as it goes" if found.missing else ""))
        return
    tell_all([f"damaged: {readable(str(damage), 1000)}" for damage in found.damaged])
    if found.healing is not None:
        tell(f"make what is damaged anew with:\n  {found.healing}")


def print_mentors(store: "TargetStore") -> None:
    """One line a mentor: accuracy on its cached views, what is there, how it was encoded."""
    from kdcache.encode import LOGITS, PRIMARY
    from kdcache.inspection import inspect_store

    found = inspect_store(store)
    counted = store.manifest.primary is LOGITS  # nobody counts right rows of heatmaps
    top_1 = "top-1" if counted else ""
    tell(f"{'mentor':<12}{top_1:>8}  {'views':>7}  {'bytes':>9}  {'encoder':<8}  checkpoint")
    for mentor in found["mentors"]:
        accuracy = (
            ("-" if counted else "") if mentor["accuracy"] is None else f"{mentor['accuracy']:.2f}"
        )
        tell(
            f"{mentor['name']:<12}{accuracy:>8}  "
            f"{mentor['complete_views']:>3}/{mentor['views']:<3}  "
            f"{readable_bytes(mentor['bytes']):>9}  {mentor['encoder']['name']:<8}  "
            f"{mentor['checkpoint_sha256'][:12]}"
        )
        for kind, has in mentor["kinds"].items():
            if kind not in PRIMARY:
                tell(
                    f"  {kind:<18}  {has['complete_views']:>3}/{has['views']:<3}  "
                    f"{readable_bytes(has['bytes']):>9}  {has['encoder']['name']:<8}  "
                    f"{has['width']} a row"
                )
    warnings = [*found["problems"], *found["warnings"]]
    tell_all([f"warning: {readable(warning, 1000)}" for warning in warnings], err=True)


def _described(recipe: dict[str, Any]) -> str:
    parameters = {k: v for k, v in recipe.items() if k not in ("name", "version", "exact")}
    return ", ".join([recipe["name"], *([_listed(parameters)] if parameters else [])])


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
