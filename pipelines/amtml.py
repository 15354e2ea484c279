"""AMTML-KD: mentor weights that are learned for every sample, against their plain average.

    python pipelines/amtml.py                the authors' 280 epochs on CIFAR-100; for a GPU
    python pipelines/amtml.py --hints        with their multi-group hints, from cached features
    python pipelines/amtml.py --smoke        the same story, 3 minutes on a laptop

1. train the mentors that no library has        2. run them once over every view
3. train the student by each arm and seed       4. one table: results.md, .csv and .json in --out

Liu et al., arXiv 2103.04062, and the authors' notebooks: SGD at 0.1, momentum 0.9, weight decay
5e-4, batch 128; 80 epochs in which the weights learn beside the student and 200 in which they are
frozen. Two things their text and code leave open are arms here: whether KL is the mean over samples
(`batchmean`) or, as in their code (`authors`), is divided by classes too, 100 times less on
CIFAR-100; and whether the learned weights are regularised, as in one of their three variants.

`--hints` adds the intermediate level: mentors' pooled features are cached beside their logits, and
the adapter learns, or, as the authors' did, stays as it was drawn (`hints-fixed`). Pooled features
instead of feature maps are a simplification. The mentors are our choice.

Stages and runs that are finished are not repeated: give the same command again after a kill, or
with --hints after a run without. The smoke size takes real CIFAR-100 and its mentors r20 and r32
where `$KDCACHE_DATA` has them, else the bundled digits; its accuracies mean nothing.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: the folder above holds the package `pipelines`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kdcache
from pipelines.runs import train_run, write_results
from pipelines.sizes import Size, choose_size, size_options
from pipelines.stages import cache_targets, stoppable, train_mentors

FULL = Size(
    dataset="cifar100", student="r20", mentors=("r110", "r56", "wrn40"),
    samples=None, epochs=280, mentor_epochs=240, views=None, seeds=(0, 1, 2), eval_every=1,
)  # fmt: skip
SMOKE = replace(
    FULL, student="r8", mentors=("r32", "r20"),
    samples=512, epochs=4, seeds=(0, 1), eval_every=4,
)  # fmt: skip

Arm = tuple[str, dict[str, Any]]  # a method and its switches
ARMS: dict[str, Arm] = {
    "average": ("average", {}),
    "batchmean": ("amtml", {}),
    "batchmean-regularised": ("amtml", {"regularise": True}),
    "authors": ("amtml", {"reduction": "authors"}),
    "authors-regularised": ("amtml", {"reduction": "authors", "regularise": True}),
}
HINT_ARMS: dict[str, Arm] = {
    "hints": ("amtml", {"hint_weight": 1.0}),
    "hints-fixed": ("amtml", {"hint_weight": 1.0, "train_adapter": False}),
}


@click.command()
@size_options(FULL)
@click.option("--hints", is_flag=True, help="Cache features too, and teach with them.")
@click.option("--out", help="Folder.  [default: runs/amtml, or -smoke]")
def main(hints: bool, out: str | None, device: str, **given: Any) -> None:
    """Trains one student by AMTML-KD's variants and by average, from one store."""
    with stoppable() as stop:
        size = choose_size(SMOKE if given["smoke"] else FULL, given)
        folder = Path(out or f"runs/amtml{'-smoke' if given['smoke'] else ''}")

        train_mentors(size.mentors, size.dataset, stop, epochs=size.mentor_epochs, device=device)

        dataset = kdcache.open_dataset(size.dataset, samples=size.samples)
        store = cache_targets(
            dataset,
            size.mentors,
            folder / "store",
            stop,
            views=size.num_views,
            device=device,
            features=hints,
        )

        runs = []
        for seed in size.seeds:
            for arm, (method, switches) in {**ARMS, **(HINT_ARMS if hints else {})}.items():
                config = kdcache.TrainConfig(
                    student=size.student,
                    method=method,
                    switches=switches,
                    store=str(folder / "store"),
                    mentors=size.mentors,
                    views=size.num_views,
                    epochs=size.epochs,
                    batch_size=128,
                    lr=0.1,
                    schedule="amtml",
                    eval_every=size.eval_every,
                    seed=seed,
                    device=device,
                    out=str(folder / f"{size.student}-{arm}-s{seed}"),
                )
                runs.append(train_run(arm, config, stop))

        title = f"{size.student} on {size.dataset}, {len(dataset):,} samples, {size.epochs} epochs"
        click.echo(write_results(folder, title, store, size.mentors, runs, device))


if __name__ == "__main__":
    main()
