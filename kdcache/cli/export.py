"""`kdcache export`."""

from typing import Any

import click

from kdcache.cli.options import (
    ENCODERS_HELP,
    NameList,
    ViewChoice,
    config_option,
    fidelity_option,
)
from kdcache.cli.printing import print_calibration, tell
from kdcache.cli.progress import progress_line, readable_bytes, readable_seconds
from kdcache.cli.stopping import stop_on_signals
from kdcache.cli.stores import print_mentors


@click.command()
@click.argument("source")
@click.argument("destination", type=click.Path())
@click.option("--encoder", required=True, help=ENCODERS_HELP)
@fidelity_option
@click.option("--mentors", type=NameList(), help="Mentors to take along.  [default: all]")
@click.option(
    "--views",
    type=ViewChoice(),
    help="The first N, a list, or a range such as 0:40.  [default: whatever is there]",
)
@config_option
def export(source: str, destination: str, **options: Any) -> None:
    """Encode a store anew, into another one of the same views. No mentor runs.

    What DESTINATION has is skipped, so the same command goes on after an interruption. SOURCE is
    best exact (float32): errors of two encoders add up, which is said, and stated in the new store.
    """
    with stop_on_signals() as stop:
        from kdcache.errors import Stopped
        from kdcache.exporting import ExportJob

        job = ExportJob(source, destination, **options)
        for calibration in job.calibrations.values():
            print_calibration(calibration)
        for line in job.inexact.values():
            tell(f"warning: {line}", err=True)
        tell(f"store {job.root}, {job.reused} chunks reused")
        with progress_line("rows") as progress:
            result = job.run(progress=progress, should_stop=stop)
        for path in result.healed:
            tell(f"made anew: {path}")
        if result.stopped:
            raise Stopped(
                f"stopped; every finished chunk is committed in {job.root}. Run the same command "
                "again to go on"
            )
        sizes = [
            sum(
                record.bytes for stored in store.sound_targets for record in stored.commits.values()
            )
            for store in (job.source, result.store)
        ]
        tell(
            f"encoded {result.num_rows:,} rows in {readable_seconds(result.seconds)}: "
            f"{readable_bytes(sizes[1])}, the source has {readable_bytes(sizes[0])}"
            if result.num_rows
            else "nothing to encode: everything asked for is committed"
        )
        print_mentors(result.store)
