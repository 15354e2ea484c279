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


# Option -> those of which one makes sense of it; a store of people takes the data by itself.
_BELONGS_TO = {
    "views": ("against",),
    "tau": ("against",),
    "network": ("against",),
    "mentors": ("against", "pictures"),
    "device": ("against", "pictures"),
    "people": ("pictures",),
    "view": ("pictures",),
}
_OF_DATA = ("dataset", "data_dir")
_GIVEN_AS = {"against": "--against CHECKPOINT", "pictures": "--pictures DIR"}


@click.command()
@click.argument("store", metavar="STORE|URL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option(
    "--accuracy/--no-accuracy",
    default=None,
    help="Of people: AP or PCKh of the mentors' cached keypoints, if the data is here.  "
    "[default: for up to 5,000 people in a store on this machine]",
)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    help="Also tell which mentors would teach this student now, and on which classes or joints: a "
    "run folder (its last saved step), a finished student, or a mentor's weights.",
)
@click.option(
    "--pictures",
    metavar="DIR",
    help="Of people: write PNGs into this folder of what mentors (and the student of --against) "
    "see.",
)
@click.option(
    "--people",
    type=ViewChoice(),
    metavar="N|I,J,..|I:K",
    help="People for it: so many, spread over the store, or these indices.  [default: 10]",
)
@click.option("--view", type=int, help="The view for it.  [default: the first complete one]")
@click.option(
    "--views",
    type=ViewChoice(),
    help="Views for --against: the first N, or a list.  [default: the first]",
)
@click.option("--mentors", type=NameList(), help="Mentors for either.  [default: the store's]")
@click.option(
    "--tau",
    type=float,
    help="How much a full gap adds to the temperature.  [default: 12, poses 1.5]",
)
@click.option(
    "--network", help="The student's network.  [default: what the file says, else its name]"
)
@click.option("--dataset", help="The dataset's name.  [default: as the store says]")
@click.option("--data-dir", help="Folder that holds the dataset.  [default: $KDCACHE_DATA]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps.  [default: auto]")
def inspect(store: str, as_json: bool, accuracy: bool | None, **options: Any) -> None:
    """Show what a store holds: dataset, recipe, views, mentors, accuracy, bytes, completeness.

    With --against: who would teach a student, from the store and its data, without any mentor. With
    --pictures: what mentors see of people, drawn.
    """
    from kdcache.keypoint_accuracy import inspect_with_accuracy
    from kdcache.store import open_store

    given = {name: value for name, value in options.items() if value is not None}
    opened = open_store(store)
    _require_sense(given, of_people=opened.manifest.primary.name == "heatmaps")
    data = {name: given[name] for name in _OF_DATA if name in given}
    with progress_line("mentors") as progress:
        found = inspect_with_accuracy(opened, asked=accuracy, progress=progress, **data)
    if "against" in given:
        from kdcache.against import inspect_classroom

        with progress_line("rows") as progress:
            chosen = _those_of("against", given)
            found["against"] = inspect_classroom(
                opened, given["against"], progress=progress, **chosen, **data
            )
    if "pictures" in given:
        from kdcache.pictures import draw_people

        with progress_line("people") as progress:
            chosen = {**_those_of("pictures", given), **_those_of("against", given)}
            chosen = {key: value for key, value in chosen.items() if key not in ("views", "tau")}
            found["pictures"] = draw_people(
                opened,
                given["pictures"],
                against=given.get("against"),
                progress=progress,
                **chosen,
                **data,
            )
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
    _print_found(found)
    if "against" in found:
        tell("")
        print_classroom(found["against"])
    if "pictures" in found:
        tell("")
        _print_pictures(found["pictures"])


def _require_sense(given: dict[str, Any], *, of_people: bool) -> None:
    """Raises UsageError for options that say something of what is not asked for."""
    belongs = _BELONGS_TO if of_people else _BELONGS_TO | dict.fromkeys(_OF_DATA, ("against",))
    lacking = {
        name: belongs[name]
        for name in given
        if name in belongs and not any(one in given for one in belongs[name])
    }
    if lacking:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in lacking)
        needed = dict.fromkeys(_GIVEN_AS[one] for wanted in lacking.values() for one in wanted)
        raise UsageError(f"{names}: only with {' or '.join(needed)}; add it, or leave them out")


def _those_of(what: str, given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if what in _BELONGS_TO.get(name, ())}


def _print_pictures(found: dict[str, Any]) -> None:
    tell_all([f"wrote        {person['file']}" for person in found["people"]])
    tell(f"all of them  {found['sheet']}")


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
    from kdcache.inspection import inspect_store

    _print_found(inspect_store(store))


def _print_found(found: dict[str, Any]) -> None:
    from kdcache.encode import PRIMARY

    metric = found["metric"]
    tell(f"{'mentor':<12}{metric:>8}  {'views':>7}  {'bytes':>9}  {'encoder':<8}  checkpoint")
    for mentor in found["mentors"]:
        accuracy = "-" if mentor["accuracy"] is None else f"{mentor['accuracy']:.2f}"
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
