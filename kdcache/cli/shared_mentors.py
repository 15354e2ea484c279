"""Commands that share mentors' checkpoints: `kdcache push-mentor`, `kdcache pull-mentor`."""

from typing import Any

import click

from kdcache.cli.options import config_option, hub_argument, stack
from kdcache.cli.printing import tell
from kdcache.cli.progress import progress_line, readable_bytes

_options = stack(
    click.argument("name"),
    hub_argument(),
    click.option(
        "--dataset",
        default="cifar100",
        show_default=True,
        help="What the mentor was trained for: cifar100, cifar10, digits, or module:factory.",
    ),
    click.option(
        "--data-dir",
        help="Folder that holds the dataset, where it is not cifar's.  [default: $KDCACHE_DATA]",
    ),
)


@click.command()
@_options
@click.option(
    "--checkpoint",
    type=click.Path(),
    help="Its weights.  [default: as --mentors finds them, in the mentor library]",
)
@config_option
def push_mentor(name: str, hub: str | None, **options: Any) -> None:
    """Put a mentor's checkpoint at a hub, so that others can run it.

    NAME is one as --mentors takes it, such as r110; HUB a URL or a folder. Its sidecar goes along.
    The file is read first, as its weights; one that is there already is not moved again.
    """
    from kdcache.share import default_hub
    from kdcache.share.checkpoints import push_mentor as push

    place = default_hub(hub)
    moved = push(name, place, **options)
    shared = moved.shared
    tell(f"{moved.path}: {readable_bytes(shared.bytes)}, SHA-256 {shared.sha256}")
    tell(
        f"mentor {shared.name} for {shared.dataset} is at {place}"
        + ("" if moved.bytes else ", and was before: nothing moved")
    )
    tell(
        f"Others get it with:\n  kdcache pull-mentor {shared.name} --dataset {shared.dataset} "
        f"--hub {place}\nor as soon as they name it in kdcache precompute --hub {place}"
    )


@click.command()
@_options
@click.option(
    "--sha", help="How its SHA-256 (or its entry's) begins, where the hub has several of that name."
)
@config_option
def pull_mentor(name: str, hub: str | None, sha: str | None, **options: Any) -> None:
    """Take a mentor's checkpoint from a hub into the mentor library.

    NAME is one as --mentors takes it, such as r110; HUB a URL or a folder. What arrives is checked,
    by its SHA-256 and as this network's weights, before it is put there; another checkpoint of that
    name is never overwritten.
    """
    from kdcache.share import default_hub
    from kdcache.share.checkpoints import pull_mentor as pull

    place = default_hub(hub)
    with progress_line("bytes") as progress:
        moved = pull(name, place, sha256=sha, progress=progress, **options)
    tell(
        f"mentor {moved.shared.name} for {moved.shared.dataset} from {place}: "
        f"{readable_bytes(moved.bytes)}"
        if moved.bytes
        else "nothing to take: the same checkpoint is here"
    )
    tell(f"{moved.path}, SHA-256 {moved.shared.sha256}")
