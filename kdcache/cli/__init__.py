"""The command line: parse, call one function, print. One file a command group.

Modules here import nothing heavy at the top: `kdcache --help` must not wait for torch.
"""

import click

from kdcache.cli.card import card
from kdcache.cli.demo import demo
from kdcache.cli.export import export
from kdcache.cli.group import KdcacheGroup
from kdcache.cli.hubs import list_stores, push
from kdcache.cli.precompute import precompute
from kdcache.cli.prune import prune
from kdcache.cli.shared_mentors import pull_mentor, push_mentor
from kdcache.cli.sharing import diff, merge, pull
from kdcache.cli.stores import inspect, verify
from kdcache.cli.train import evaluate, train_mentor, train_student


@click.group(cls=KdcacheGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdcache")
def main() -> None:
    """Run the mentors once, train students for ever.

    `precompute` runs every mentor once over seeded, replayable views and stores what they said;
    `train-student` trains from that store without ever loading a mentor.
    """


for command in (
    precompute,
    export,
    push,
    pull,
    list_stores,
    push_mentor,
    pull_mentor,
    merge,
    diff,
    prune,
    card,
    train_student,
    train_mentor,
    evaluate,
    inspect,
    verify,
    demo,
):
    main.add_command(command)
