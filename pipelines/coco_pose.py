"""ClassroomKD for poses on COCO keypoints: one precompute, then every method and seed from it.

    python pipelines/coco_pose.py              a light student taught by three networks; for a GPU
    python pipelines/coco_pose.py --smoke      the same story on few people, 2 minutes on a laptop

1. train the mentors that no library has        2. run them once over every view
3. train the student by each method and seed    4. one table: results.md, .csv and .json in --out

Student: a MobileNetV2 with a light head. Teacher: SimpleBaseline of ResNet-50; peers: that of
ResNet-18, and ResNet-18 with the light head. The recipe is HRNet's (Sun et al., arXiv 1902.09212,
section 4.1): Adam, 210 epochs, steps at 170 and 200, half bodies in 0.3 of the views. 10 views of
some 150,000 people by three mentors are 45 GB of heatmaps at 10 kB each, so every view is trained
on in 21 epochs. `--dataset mpii` tells the same story with PCKh@0.5.

Stages and runs that are finished are not repeated: give the same command again after a kill. The
data must be at hand ($KDCACHE_DATA; docs/pose.md says how it may lie). The smoke size takes the
first 48 people at 64 x 64, from whatever part of COCO is there; its mentors are trained for it in
--out, never put into the library, and its numbers are small-data numbers: they mean nothing.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: the folder above holds the package `pipelines`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kdcache
from kdcache.cli.options import NameList
from kdcache.cli.view_options import recipe_parameters_option
from kdcache.errors import UsageError
from kdcache.mentor_library import find_checkpoint, read_sidecar
from kdcache.tasks import POSE
from kdcache.train import headline, with_defaults
from pipelines.compared import Arms, choose_arms
from pipelines.runs import train_run, write_results
from pipelines.sizes import Size, as_given, size_options
from pipelines.stages import ShouldStop, cache_targets, stoppable, train_mentors

FULL = Size(
    dataset="coco-keypoints", student="mbpose", mentors=("sb50", "sb18", "lp18"),
    samples=None, epochs=210, mentor_epochs=210, views=10, seeds=(0, 1, 2), eval_every=10,
)  # fmt: skip
SMOKE = replace(
    FULL, mentors=("sb18", "lp18"),
    samples=48, epochs=2, mentor_epochs=3, views=2, seeds=(0, 1), eval_every=3,
)  # fmt: skip
FULL_VIEWS = {"half_body": 0.3}
SMOKE_VIEWS = {"height": 64, "width": 64}
SMOKE_BATCH = 8  # 48 people are six steps
SMALL_DATA = (
    "Small-data numbers: of a few people and steps, after which an AP is hardly ever above 0; they "
    "show that it runs, and mean nothing."
)

METHODS_COMPARED = ("ce", "kd", "average", "classroom")
# Arms that are a method with switches; any other arm is the method of that name.
SWITCHES: Arms = {
    "classroom-sample": ("classroom", {"granularity": "sample"}),
    "classroom-oks": ("classroom", {"confidence": "oks"}),
    "classroom-kl": ("classroom", {"divergence": "kl", "kd_scale": 0.03}),
    "classroom-open": ("classroom", {"gate": "off"}),
}


@click.command()
@size_options(FULL)
@click.option("--dataset", help=f"coco-keypoints or mpii.  [default: {FULL.dataset}]")
@click.option(
    "--methods", type=NameList(), default=",".join(METHODS_COMPARED), show_default=True,
    help=f"What to compare: ce, kd, average, classroom, {', '.join(SWITCHES)}.",
)  # fmt: skip
@recipe_parameters_option
@click.option("--out", help="Folder.  [default: runs/coco-pose, or -smoke]")
def main(
    methods: tuple[str, ...],
    recipe_options: dict[str, Any],
    out: str | None,
    device: str,
    smoke: bool,
    **given: Any,
) -> None:
    """Trains one pose network by several methods from one store of its classroom's heatmaps.

    `kd` is taught by the first mentor.
    """
    with stoppable() as stop:
        size = as_given(SMOKE if smoke else FULL, given)
        arms = choose_arms(methods, len(size.mentors), SWITCHES, POSE)
        folder = Path(out or f"runs/coco-pose{'-smoke' if smoke else ''}")
        view_options = {**(SMOKE_VIEWS if smoke else FULL_VIEWS), **recipe_options}

        dataset = kdcache.open_dataset(size.dataset, samples=size.samples)
        if dataset.task != POSE:
            raise UsageError(f"{size.dataset} has classes, no people: coco-keypoints or mpii")
        for line in dataset.report:
            click.echo(f"{size.dataset}: {line}")

        common: dict[str, Any] = {
            "dataset": size.dataset,
            "recipe_options": view_options,
            "device": device,
            "samples": size.samples,
        }
        if smoke:
            common["batch_size"] = SMOKE_BATCH
        own, tested = mentors_at_hand(size, common, folder if smoke else None, stop)

        views = size.num_views
        store = cache_targets(
            dataset,
            size.mentors,
            folder / "store",
            stop,
            views=views,
            device=device,
            recipe_options=view_options,
            checkpoints=own,
        )

        runs = []
        for seed in size.seeds:
            for arm, (method, switches) in arms.items():
                config = pose_config(
                    common,
                    student=size.student,
                    method=method,
                    switches=switches,
                    store=str(folder / "store"),
                    mentors=size.mentors[:1] if method == "kd" else size.mentors,
                    views=views,
                    epochs=size.epochs,
                    eval_every=size.eval_every,
                    seed=seed,
                    out=str(folder / f"{size.student}-{arm}-s{seed}"),
                )
                runs.append(train_run(arm, config, stop))

        title = f"{size.student} on {size.dataset}, {len(dataset):,} people, {size.epochs} epochs"
        note = f"On the annotated boxes. {SMALL_DATA}" if smoke else "On the annotated boxes."
        click.echo(
            write_results(
                folder, title, store, size.mentors, runs, device, tested=tested, note=note
            )
        )


def mentors_at_hand(
    size: Size, common: Mapping[str, Any], folder: Path | None, stop: ShouldStop
) -> tuple[dict[str, str], dict[str, float | None]]:
    """Trains the mentors that are not there yet: for the library, or in a folder of their own.

    Returns the checkpoints that are not the library's, and each mentor's number on the test split,
    in percent; None where its checkpoint came without one.
    """
    if folder is None:
        options = {key: value for key, value in common.items() if key != "dataset"}
        train_mentors(
            size.mentors,
            size.dataset,
            stop,
            epochs=size.mentor_epochs,
            eval_every=size.eval_every,
            **options,
        )
        sidecars = {
            name: read_sidecar(find_checkpoint(name, size.dataset)) or {} for name in size.mentors
        }
        return {}, {name: headline(sidecar)[1] for name, sidecar in sidecars.items()}
    files: dict[str, str] = {}
    tested: dict[str, float | None] = {}
    for name in size.mentors:
        config = pose_config(
            common,
            student=name,
            method="ce",
            epochs=size.mentor_epochs,
            eval_every=size.eval_every,
            out=str(folder / f"mentor-{name}"),
        )
        tested[name] = train_run(f"mentor {name}", config, stop).last
        files[name] = str(Path(config.run_folder) / "student.safetensors")
    return files, tested


def pose_config(common: Mapping[str, Any], **options: Any) -> kdcache.TrainConfig:
    """A run's config; what is not given is as for poses."""
    return kdcache.TrainConfig(**with_defaults({**common, **options}))


if __name__ == "__main__":
    main()
