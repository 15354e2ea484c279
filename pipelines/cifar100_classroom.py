"""ClassroomKD against its rivals on CIFAR-100: one precompute, then every method and seed from it.

    python pipelines/cifar100_classroom.py              the paper's ResNet-20 classroom; for a GPU
    python pipelines/cifar100_classroom.py --smoke      the same story, 3 minutes on a laptop

1. train the mentors that no library has        2. run them once over every view
3. train the student by each method and seed    4. one table: results.md, .csv and .json in --out

Sarode, Khan et al., arXiv 2409.20237: student ResNet-20, teacher ResNet-110, peers ResNet-8,
ResNet-14, ShuffleNetV2, MobileNetV2 and ShuffleNetV1, 240 epochs of the released recipe (batch 64).
Every epoch has a view of its own, cached for all mentors: 240 views, 100 classes, float16 and six
mentors are 14.4 GB. All methods see the same views and targets, with their published settings.

Stages and runs that are finished are not repeated: give the same command again after a kill. The
smoke size takes real CIFAR-100 and its mentors r20 and r32 where `$KDCACHE_DATA` has them, else the
bundled digits; its accuracies mean nothing.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: the folder above holds the package `pipelines`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kdcache
from kdcache.cli.options import NameList
from kdcache.mentor_library import mentor_name
from pipelines.compared import Arms, choose_arms
from pipelines.runs import train_run, write_results
from pipelines.sizes import Size, choose_size, size_options
from pipelines.stages import cache_targets, stoppable, train_mentors

FULL = Size(
    dataset="cifar100", student="r20",
    mentors=("r110", "r8", "r14", "shufflenetv2", "mobilenetv2", "shufflenetv1"),
    samples=None, epochs=240, mentor_epochs=240, views=None, seeds=(0, 1, 2), eval_every=1,
)  # fmt: skip
SMOKE = replace(
    FULL, student="r8", mentors=("r32", "r20"),
    samples=500, epochs=2, mentor_epochs=2, seeds=(0, 1), eval_every=2,
)  # fmt: skip

METHODS_COMPARED = ("ce", "kd", "average", "soft", "ca-mkd", "classroom", "classroom-batch")
# Arms that are a method with switches; any other arm is the method of that name.
SWITCHES: Arms = {
    "classroom-batch": ("classroom", {"granularity": "batch"}),  # what the released code computes
    "classroom-t1": ("classroom", {"temperature": "fixed", "fixed_temperature": 1.0}),
}


@click.command()
@size_options(FULL)
@click.option("--teacher", help="The mentor that teaches `kd` alone.  [default: the first]")
@click.option(
    "--methods", type=NameList(), default=",".join(METHODS_COMPARED), show_default=True,
    help="What to compare: any method of kdcache, classroom-batch, classroom-t1.",
)  # fmt: skip
@click.option("--out", help="Folder.  [default: runs/cifar100-classroom, or -smoke]")
def main(
    methods: tuple[str, ...], teacher: str | None, out: str | None, device: str, **given: Any
) -> None:
    """Trains one student by several methods from one store of its classroom's targets."""
    with stoppable() as stop:
        size = choose_size(SMOKE if given["smoke"] else FULL, given)
        if teacher is not None:
            size = replace(size, mentors=(mentor_name(teacher), *size.mentors))
        mentors = tuple(dict.fromkeys(size.mentors))
        arms = choose_arms(
            methods, len(mentors), SWITCHES
        )  # what is wrong should not cost hours first
        folder = Path(out or f"runs/cifar100-classroom{'-smoke' if given['smoke'] else ''}")

        train_mentors(mentors, size.dataset, stop, epochs=size.mentor_epochs, device=device)

        dataset = kdcache.open_dataset(size.dataset, samples=size.samples)
        views = size.num_views
        store = cache_targets(dataset, mentors, folder / "store", stop, views=views, device=device)

        runs = []
        for seed in size.seeds:
            for arm, (method, switches) in arms.items():
                config = kdcache.TrainConfig(
                    student=size.student,
                    method=method,
                    switches=switches,
                    store=str(folder / "store"),
                    mentors=mentors[:1] if method == "kd" else mentors,
                    views=views,
                    epochs=size.epochs,
                    eval_every=size.eval_every,
                    seed=seed,
                    device=device,
                    out=str(folder / f"{size.student}-{arm}-s{seed}"),
                )
                runs.append(train_run(arm, config, stop))

        title = f"{size.student} on {size.dataset}, {len(dataset):,} samples, {size.epochs} epochs"
        click.echo(write_results(folder, title, store, mentors, runs, device))


if __name__ == "__main__":
    main()
