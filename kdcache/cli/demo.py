"""`kdcache demo`."""

import click

from kdcache.cli.stopping import stop_on_signals


@click.command()
@click.option(
    "--out",
    type=click.Path(),
    default="runs/demo",
    show_default=True,
    help="Folder for the mentors, the store and the students.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything in it.")
def demo(out: str, seed: int) -> None:
    """The whole story on bundled digits: mentors, a store, and three students, in one table."""
    with stop_on_signals() as stop:
        from kdcache.demo import run_demo

        run_demo(out, seed=seed, should_stop=stop, tell=click.echo)
