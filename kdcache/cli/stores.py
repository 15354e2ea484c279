"""Commands on stores: `kdcache inspect`."""

import json
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.progress import readable_bytes

if TYPE_CHECKING:
    from kdcache.store import TargetStore


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def inspect(store: str, as_json: bool) -> None:
    """Show what a store holds: dataset, recipe, views, mentors, accuracy, bytes, completeness."""
    from kdcache.inspection import inspect_store
    from kdcache.store import open_store

    opened = open_store(store)
    found = inspect_store(opened)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    dataset, recipe = found["dataset"], found["recipe"]
    click.echo(
        f"store        {opened.root}\n"
        f"format       {found['format']}\n"
        f"fingerprint  {found['fingerprint']}\n"
        f"dataset      {dataset['name']} ({dataset['split']}), {dataset['num_samples']:,} samples, "
        f"{dataset['num_classes']} classes\n"
        f"recipe       {_described(recipe)}, view seed {found['view_seed']}\n"
        f"views        {found['views']}, {'complete' if found['complete'] else 'not complete'}\n"
        f"bytes        {readable_bytes(found['bytes'])}"
    )
    print_mentors(opened)


def print_mentors(store: "TargetStore") -> None:
    """One line a mentor: accuracy on its cached views, what is there, how it was encoded."""
    from kdcache.inspection import inspect_store, near_chance

    found = inspect_store(store)
    click.echo(
        f"{'mentor':<12}{'top-1':>8}  {'views':>7}  {'bytes':>9}  {'encoder':<8}  checkpoint"
    )
    for mentor in found["mentors"]:
        accuracy = "-" if mentor["accuracy"] is None else f"{mentor['accuracy']:.2f}"
        click.echo(
            f"{mentor['name']:<12}{accuracy:>8}  "
            f"{mentor['complete_views']:>3}/{mentor['views']:<3}  "
            f"{readable_bytes(mentor['bytes']):>9}  {mentor['encoder']['name']:<8}  "
            f"{mentor['checkpoint_sha256'][:12]}"
        )
    for warning in [*found["problems"], *near_chance(found)]:
        click.echo(f"warning: {warning}", err=True)


def _described(recipe: dict[str, Any]) -> str:
    parameters = [f"{k} {v}" for k, v in recipe.items() if k not in ("name", "version", "exact")]
    return ", ".join([recipe["name"], *parameters])
