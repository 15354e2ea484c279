"""`kdcache demo`."""

import click

from kdcache.cli.stopping import stop_on_signals


@click.command()
@click.option(
    "--out",
    type=click.Path(),
    help="Folder for the mentors, the store and the students.  [default: runs/demo-s<seed>]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything in it.")
def demo(out: str | None, seed: int) -> None:
    """The whole story on bundled digits: mentors, a store, and three students, in one table."""
    with stop_on_signals() as stop:
        from kdcache.demo import run_demo

        run_demo(out or f"runs/demo-s{seed}", seed=seed, should_stop=stop, tell=click.echo)
