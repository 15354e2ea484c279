"""`kdcache card`."""

import click

from kdcache.cli.options import config_option
from kdcache.cli.printing import tell


@click.command()
@click.argument("store", metavar="STORE|URL")
@click.option(
    "--licence",
    metavar="TEXT",
    help="Under which the targets are handed on, such as cc-by-4.0.  [default: unknown]",
)
@click.option("--force", is_flag=True, help="Replace a README.md that kdcache did not write.")
@click.option("--show", is_flag=True, help="Print the card; write nothing.")
@config_option
def card(store: str, licence: str | None, force: bool, show: bool) -> None:
    """Write a README.md into a store: what it is, from what, by what command, how to use it.

    It begins as Hugging Face wants the card of a dataset repository to begin.
    """
    from kdcache.card import store_card, write_card
    from kdcache.store import open_store

    if show:
        click.echo(store_card(open_store(store), licence=licence), nl=False)
        return
    tell(f"wrote {write_card(store, licence=licence, force=force)}")
