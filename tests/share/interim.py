"""Stands in for `kdcache pull` until it is there."""

import sys

import click

from kdcache.cli import main
from kdcache.cli.options import NameList, ViewChoice
from kdcache.cli.stopping import stop_on_signals

if "pull" not in main.commands:

    @main.command()
    @click.argument("source")
    @click.argument("destination")
    @click.option("--mentors", type=NameList())
    @click.option("--views", type=ViewChoice())
    def pull(source: str, destination: str, **options: object) -> None:
        with stop_on_signals() as stop:
            from kdcache.copying import CopyJob

            result = CopyJob(source, destination, **options).run(should_stop=stop)  # type: ignore[arg-type]
            click.echo(f"kdcache train-student --store {destination}")
            if result.stopped or not result.ok:
                click.echo(str(result.damaged))
                raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
