"""When does per-sample filtering help? Students of mentors that are right, and of mentors that err.

    python pipelines/filter_study.py                 CIFAR-100, mentors r20 r32 r44 r56
    python pipelines/filter_study.py --smoke         the same story in a minute
    python pipelines/filter_study.py --show          the tables of the runs there are

1. run the mentors once over a class-balanced part of the training images
2. corrupt what they said, by arithmetic on the stored rows       corruption.py
3. teach a small student by every arm, from the same seeds        arms.py, gates.py
4. compare on the complete official test set, arm by arm and seed by seed

One line of `runs.jsonl` in `--out` a finished run; a run that is there is not made again. A seed
decides a run's initial weights, its order of samples and what is corrupted, so arms are compared in
pairs. Accuracy is the last epoch's.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

if not __package__:  # run as a file: the folder above holds the package `pipelines`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kdcache
from kdcache.cli.options import NameList
from kdcache.errors import Stopped
from pipelines.arms import ARMS, Teach, make_arm
from pipelines.corruption import (
    CorruptedTargets,
    Corruption,
    clean,
    label_noise,
    specialists,
    wrong_mentors,
    wrong_rows,
)
from pipelines.sizes import parse_numbers
from pipelines.stages import ShouldStop, cache_targets, stoppable
from pipelines.study_runs import (
    Run,
    Size,
    append_line,
    is_of_size,
    read_runs,
    require_same_targets,
    run_of,
)
from pipelines.study_tables import study_tables

SETTINGS: Mapping[str, Callable[..., Corruption]] = {
    "clean": clean,
    "specialists": specialists,
    **{f"wrong-rows-{p}": partial(wrong_rows, share=p / 100) for p in (25, 50, 75)},
    **{f"wrong-mentors-{k}": partial(wrong_mentors, count=k) for k in (1, 2, 4)},
    **{f"label-noise-{p}": partial(label_noise, share=p / 100) for p in (20, 40)},
}
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.1, 0.9, 5e-4


FULL = Size(
    mentors=("r20", "r32", "r44", "r56"), samples=10_000, views=8, epochs=20, seeds=(0, 1, 2)
)
SMOKE = Size(
    mentors=("r20", "r32"), samples=400, views=2, epochs=2, seeds=(0, 1), test_samples=1000
)

CORE_SETTINGS = ("clean", "specialists", "wrong-rows-25", "wrong-rows-50", "wrong-rows-75")
CORE_ARMS = (
    "ce", "average-1", "soft", "classroom", "classroom-t1", "random-gate-t1", "weight-only-t1",
)  # fmt: skip
VIEW_ARMS = ("ce", "average-1", "classroom-t1")


def _known(names: Iterable[str]) -> Callable[..., tuple[str, ...] | None]:
    """A callback that lets only these names pass."""

    def check(
        ctx: click.Context, param: click.Parameter, given: tuple[str, ...] | None
    ) -> tuple[str, ...] | None:
        unknown = [name for name in given or () if name not in names]
        if unknown:
            raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(names)}")
        return given

    return check


@click.command()
@click.option("--smoke", is_flag=True, help="Few samples and epochs, two mentors.")
@click.option(
    "--part",
    type=click.Choice(["core", "all", "views"]),
    default="core",
    show_default=True,
    help="The core arms and settings, every arm and setting, or the number of cached views.",
)
@click.option("--settings", type=NameList(), callback=_known(SETTINGS), help="Only these.")
@click.option("--arms", type=NameList(), callback=_known(ARMS), help="Only these.")
@click.option("--views", type=NameList(), callback=parse_numbers, help="Only so many cached views.")
@click.option("--seeds", type=NameList(), callback=parse_numbers, help="One run each [0,1,2].")
@click.option("--out", help="Folder.  [default: runs/filter-study, or -smoke]")
@click.option("--store", help="The targets' store; it is made where it is missing [OUT/store].")
@click.option("--device", default="auto", show_default=True)
@click.option("--show", is_flag=True, help="Train nothing; print the tables of what is there.")
def main(
    smoke: bool,
    part: str,
    settings: tuple[str, ...] | None,
    arms: tuple[str, ...] | None,
    views: tuple[int, ...] | None,
    seeds: tuple[int, ...] | None,
    out: str | None,
    store: str | None,
    device: str,
    show: bool,
) -> None:
    """Trains the students that are not there yet, and prints the tables."""
    size = SMOKE if smoke else FULL
    out = out or f"runs/filter-study{'-smoke' if smoke else ''}"
    runs_file = Path(out) / "runs.jsonl"
    if not show:
        wanted = [
            run
            for seed in seeds or size.seeds
            for run in runs_of(part, size, seed)
            if run.setting in (settings or SETTINGS)
            and run.arm in (arms or ARMS)
            and run.views in (views or [run.views])
        ]
        with stoppable() as stop:
            train_missing(wanted, size, runs_file, Path(store or f"{out}/store"), device, stop)
    finished = [line for line in read_runs(runs_file) if is_of_size(line, size)]
    click.echo("\n\n".join(study_tables(finished, views=size.views)))


def runs_of(part: str, size: Size, seed: int) -> Iterator[Run]:
    """A part's runs; those with labels only are the same in every setting with true labels."""
    common = {"seed": seed, "samples": size.samples, "epochs": size.epochs}
    if part == "views":
        for views in sorted({1, 2, 4, 8, size.epochs}):
            for arm in VIEW_ARMS:
                yield Run(setting="clean", arm=arm, views=views, **common)
        return
    for setting in SETTINGS if part == "all" else CORE_SETTINGS:
        for arm in ARMS if part == "all" else CORE_ARMS:
            if arm != "ce" or setting == "clean" or setting.startswith("label-noise"):
                yield Run(setting=setting, arm=arm, views=size.views, **common)


def train_missing(
    wanted: list[Run], size: Size, runs_file: Path, store: Path, device: str, stop: ShouldStop
) -> None:
    """Makes the store and trains every run that the file does not have."""
    there = list(read_runs(runs_file))
    finished = set(map(run_of, there))
    missing = [run for run in wanted if run not in finished]
    if not missing:
        return
    dataset = kdcache.open_dataset("cifar100", samples=size.samples)
    test = kdcache.open_dataset("cifar100", "test", samples=size.test_samples)
    views = max(run.views for run in missing)
    targets = cache_targets(dataset, size.mentors, store, stop, views=views, device=device)
    require_same_targets(there, targets.fingerprint, size, runs_file)
    for number, run in enumerate(missing, start=1):
        result = train(run, dataset, test, targets, device, stop)
        append_line(runs_file, json.dumps({**asdict(run), **result}))
        click.echo(
            f"{number}/{len(missing)} {run.setting} {run.arm} seed {run.seed}, {run.views} views: "
            f"{result['top1']:.2f}% in {result['seconds']:.0f} s"
        )


def train(
    run: Run,
    dataset: kdcache.ImageDataset,
    test: kdcache.ImageDataset,
    store: kdcache.TargetStore,
    device: str,
    stop: ShouldStop,
) -> dict[str, Any]:
    """One student from its seed to its accuracy on the test set. Stopped means between epochs."""
    started = time.perf_counter()
    stream = kdcache.TargetStream(store, device=device, views=range(run.views))
    stream.require_dataset(dataset)
    corruption = SETTINGS[run.setting](
        store.labels_N,
        num_classes=dataset.num_classes,
        num_mentors=len(stream.mentors),
        seed=run.seed,
    )
    source: kdcache.TargetSource = CorruptedTargets(stream, corruption)
    if run.arm == "ce":
        source = kdcache.LabelsOnly(stream.recipe, stream.views)
    loader = kdcache.ReplayLoader(dataset, source, BATCH, seed=run.seed, device=device)
    told_N = torch.from_numpy(corruption.labels_N)
    teach = make_arm(run.arm, num_mentors=len(source.mentors), seed=run.seed)
    student = small_student(dataset.num_classes, run.seed).to(loader.device)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs)
    active_M = torch.zeros(len(source.mentors), device=loader.device)
    for epoch in range(run.epochs):
        if stop():
            raise Stopped("stopped; finished runs are kept. Run the same command again to go on")
        loader.set_epoch(epoch)
        active_M.zero_()
        for batch in loader:
            told_B = told_N[store.positions(batch.index.numpy())].to(loader.device)
            active_M += train_step(student, optimizer, teach, batch, told_B)
        schedule.step()
    found = kdcache.evaluate_network(student, test, test.preprocessing, loader.device)
    return {
        "top1": found.top1,
        "test_loss": found.loss,
        "targets": store.fingerprint,
        "mentors": stream.mentors,
        "active": (active_M / (len(loader) * BATCH)).tolist(),
        "seconds": time.perf_counter() - started,
        "device": str(loader.device),
        "threads": torch.get_num_threads(),
    }


def train_step(
    student: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    teach: Teach,
    batch: kdcache.Batch,
    told_B: torch.Tensor,
) -> torch.Tensor:
    """One step; how many samples each mentor was active for."""
    images = batch.images.contiguous(memory_format=torch.channels_last)
    out = teach(student(images), told_B, batch.logits, batch.labels)
    optimizer.zero_grad()
    out.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return out.active_BM.sum(dim=0)


def small_student(num_classes: int, seed: int) -> torch.nn.Module:
    """ResNet-8 whose first convolution halves the image: a quarter of the work."""
    network = kdcache.build_network("r8", num_classes, seed=seed)
    stem = network.get_submodule("conv1")
    assert isinstance(stem, torch.nn.Conv2d)
    stem.stride = (2, 2)
    return network.to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
