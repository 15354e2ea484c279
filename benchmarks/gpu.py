"""`python -m benchmarks gpu`: what training and precompute cost where the device is a GPU.

Epochs with labels only, from the store, and with 4 and 6 mentors online, plain and compiled, each
with the share of the time that the device waits; precompute against bare forward passes. Two of
the six mentors have random weights: a forward pass costs the same.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import torch

from benchmarks import hardware, precompute
from benchmarks.material import (
    LOADED_VIEWS,
    Material,
    Settings,
    default_data_dir,
    find_material,
    mentored_store,
)
from benchmarks.options import data_dir_option, repeats_option
from benchmarks.paired import interleave, spread
from benchmarks.steps import BATCH, epoch_seconds, make_loop, run_epoch
from benchmarks.table import Row, Skipped, heading, milliseconds
from benchmarks.waiting import waiting_share
from kdcache.checkpoints import save_weights
from kdcache.classroom import ClassroomLoss, CrossEntropyLoss
from kdcache.datasets import ImageDataset
from kdcache.devices import resolve_device
from kdcache.errors import UsageError
from kdcache.mentors import MentorPool
from kdcache.models import build_network
from kdcache.online import OnlineTargets
from kdcache.sources import LabelsOnly, TargetSource
from kdcache.stream import TargetStream
from kdcache.train.compiling import require_compiler
from kdcache.train.loop import TrainingLoop

MORE_MENTORS = ("r110", "wrn40", "r14", "r8")  # with random weights, until there are six
QUICK_MORE = ("r20", "vgg8", "r32", "r44")


def measure(settings: Settings, device: torch.device) -> Iterator[Row | Skipped]:
    """All rows on one device."""
    material = _with_six_mentors(settings, find_material(settings))
    dataset = material.open(settings.size(full=25_600, quick=2 * BATCH))
    yield from _epochs(settings, material, dataset, device)
    for precision in ("fp32", "bf16"):
        batches = settings.size(full=2 if device.type == "cpu" else 64, quick=1)
        yield precompute.compare(settings, material, device, precision, batches=batches)


def _epochs(
    settings: Settings, material: Material, dataset: ImageDataset, device: torch.device
) -> Iterator[Row | Skipped]:
    names = list(material.mentors)
    four = names[:4]
    mentors = material.load_mentors(dataset)
    store = mentored_store(settings, dataset, mentors, device=device)
    pools = {
        count: MentorPool(mentors[:count], device=device, run_shape=settings.run_shape)
        for count in (4, 6)
    }
    recipe = store.recipe
    sources: dict[str, TargetSource] = {
        "labels only": LabelsOnly(recipe, range(LOADED_VIEWS)),
        "from the store, 4 mentors": TargetStream(store, four, device),
        "from the store, 6 mentors": TargetStream(store, names, device),
        "online, 4 mentors": OnlineTargets(dataset, pools[4], recipe, range(LOADED_VIEWS)),
        "online, 6 mentors": OnlineTargets(dataset, pools[6], recipe, range(LOADED_VIEWS)),
    }
    ways = {"": False}
    try:
        require_compiler(device)
        ways[", compiled"] = True
    except UsageError as error:
        yield Skipped(what="compiled epochs", why=str(error))
    loops: dict[str, TrainingLoop] = {}
    for way, compile in ways.items():
        for name, source in sources.items():
            loss = ClassroomLoss() if source.mentors else CrossEntropyLoss()
            loops[name + way] = make_loop(
                material,
                dataset,
                source,
                loss,
                folder=settings.folder / "none",
                device=device,
                compile=compile,
            )
    for loop in loops.values():
        run_epoch(loop, 2)  # whatever is compiled or chosen at first, is then done
    seconds = interleave(
        {name: lambda loop=loop: epoch_seconds(loop) for name, loop in loops.items()},  # type: ignore[misc]
        settings.repeats,
    )
    steps = len(dataset) // BATCH
    for name, times in seconds.items():
        waits = [
            100 * waiting_share(loops[name], settings.size(full=50, quick=2))
            for _ in range(settings.size(full=3, quick=1))
        ]
        yield Row(
            what=f"epoch {name}",
            measured=spread(times),
            unit=" s",
            detail=(
                f"{milliseconds(min(times) / steps)} a step at best; {steps} steps of {BATCH}; "
                f"{material}"
            ),
        )
        yield Row(what="  of it the device waits", measured=spread(waits), unit="%")


def _with_six_mentors(settings: Settings, material: Material) -> Material:
    found = dict(material.mentors)
    dataset = material.open(BATCH)
    for name in QUICK_MORE if settings.quick or not material.real else MORE_MENTORS:
        if len(found) < 6 and name not in found:
            found[name] = settings.folder / f"random-{name}.safetensors"
            network = build_network(name, dataset.num_classes, seed=0)
            save_weights(found[name], network, {})
    return replace(material, mentors=found)


@click.command("gpu")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto: a CUDA device, which must be there; or any that torch knows, such as cpu.",
)
@click.option("--quick", is_flag=True, help="Only see that everything works: small sizes.")
@repeats_option(default=5)
@data_dir_option
def main(device: str, quick: bool, repeats: int, data_dir: Path | None) -> None:
    """Epochs, waiting and precompute on a GPU."""
    if device == "auto" and not torch.cuda.is_available():
        raise click.ClickException(
            f"torch {torch.__version__} finds no CUDA device here, so there is nothing to measure; "
            "--device cpu --quick runs the same code small"
        )
    try:
        chosen = resolve_device(device)
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    repeats = min(repeats, 1) if quick else repeats
    for line in hardware.describe(repeats):
        click.echo(line)
    hardware_name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "the CPU"
    click.echo(f"device    {chosen}: {hardware_name}")
    if quick:
        click.echo("QUICK: sizes and rounds are too small for these numbers to mean anything")
    click.echo(f"\n{heading()}")
    with tempfile.TemporaryDirectory(prefix="kdcache-benchmarks-") as folder:
        settings = Settings(
            folder=Path(folder),
            data_dir=data_dir or default_data_dir(),
            repeats=repeats,
            quick=quick,
        )
        for row in measure(settings, chosen):
            for line in row.lines():
                click.echo(line)
