"""Training from the store is training with the mentors online: the equality kdcache rests on.

    python -m pipelines.cached_equals_online            CIFAR-100, mentors r56 and r20, student r8
    python -m pipelines.cached_equals_online --smoke    the same story on the bundled digits

1. get mentors       2. run them once over a few views     3. train a student from the store
4. train it again with the mentors running at every step, on the same views
5. compare every epoch's losses, and the final weights, bit for bit
6. store the same targets as float16 and compare rows and the first step's loss with what that costs

Every stage goes on where it was stopped: stores and runs are kept in `--out`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import kdcache
from kdcache.checkpoints import read_state_dict
from kdcache.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the experiment is."""

    dataset: str
    mentors: tuple[str, ...]
    student: str
    samples: int
    views: int
    epochs: int
    mentor_epochs: int = 0  # 0: the mentors are in the library


FULL = Size(
    dataset="cifar100", mentors=("r56", "r20"), student="r8", samples=5000, views=4, epochs=4
)
SMOKE = Size(
    dataset="digits", mentors=("r14", "r8"), student="r8", samples=200, views=2, epochs=2,
    mentor_epochs=2,
)  # fmt: skip


@click.command()
@click.option("--smoke", is_flag=True, help="Digits and tiny networks: seconds instead of minutes.")
@click.option("--out", default="runs/cached-equals-online", show_default=True, help="Folder.")
@click.option("--seed", default=0, show_default=True, help="Of the student and of the views.")
def main(smoke: bool, out: str, seed: int) -> None:
    """Trains one student twice, from the store and online, and compares."""
    size = SMOKE if smoke else FULL
    folder = Path(out)

    if size.mentor_epochs:
        for name in size.mentors:
            for _ in kdcache.train_mentor(name, dataset=size.dataset, epochs=size.mentor_epochs):
                pass

    dataset = kdcache.open_dataset(size.dataset, samples=size.samples)
    stores = {
        encoder: kdcache.precompute_targets(
            dataset,
            size.mentors,
            store=folder / f"store-{encoder}",
            views=size.views,
            view_seed=seed,
            encoder=encoder,
        )
        for encoder in ("float32", "float16")
    }

    runs = {}
    for targets in ("cache", "online"):
        runs[targets] = RunFolder(folder / targets)
        for record in kdcache.train_student(
            student=size.student,
            dataset=size.dataset,
            samples=size.samples,
            store=str(stores["float32"].root),
            mentors=size.mentors,
            targets=targets,
            epochs=size.epochs,
            seed=seed,
            out=str(runs[targets].root),
        ):
            click.echo(f"{targets}: epoch {record['epoch']}, loss {record['train_loss']:.6f}")

    same = compare_runs(runs["cache"], runs["online"])
    kept = compare_encoders(dataset, stores["float32"], stores["float16"], seed)
    if not (same and kept):
        raise click.ClickException("the promise is broken: see above")


def compare_runs(cached: RunFolder, online: RunFolder) -> bool:
    """Losses of every epoch and final weights, bit for bit."""
    losses = [
        [(r["train_loss"], r["task_loss"], r["mentor_loss"], r["test_loss"]) for r in run.records()]
        for run in (cached, online)
    ]
    weights = [read_state_dict(run.student) for run in (cached, online)]
    same_losses = losses[0] == losses[1]
    same_weights = all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    click.echo(f"losses of {len(losses[0])} epochs equal bit for bit: {same_losses}")
    click.echo(f"final weights equal bit for bit: {same_weights}")
    return same_losses and same_weights


def compare_encoders(dataset: Any, exact: Any, lossy: Any, seed: int) -> bool:
    """float16's rows within its recorded bound, and what that means for the first step's loss."""
    index = exact.index_N
    encoder = kdcache.inspect_store(lossy)["mentors"][0]["encoder"]
    within = True
    for view in range(exact.num_views):
        rows, decoded = (store.targets(view, index).astype(np.float64) for store in (exact, lossy))
        bound = np.maximum(encoder["relative_error"] * np.abs(rows), encoder["absolute_error"])
        within &= bool((np.abs(decoded - rows) <= bound).all())
    click.echo(f"every float16 row within the recorded bound: {within}")

    loss = kdcache.ClassroomLoss()
    student = kdcache.build_network("r8", dataset.num_classes, seed=seed).eval()
    batches = [
        next(iter(kdcache.ReplayLoader(dataset, store, 64, seed=seed, device="cpu")))
        for store in (exact, lossy)
    ]
    with torch.no_grad():
        logits_BC = student(batches[0].images)
        outs = [loss(logits_BC, batch.labels, batch.logits) for batch in batches]
    flips = int((outs[0].active_BM != outs[1].active_BM).sum())
    click.echo(
        f"first step's loss: float32 {outs[0].total:.6f}, float16 {outs[1].total:.6f}; the "
        f"knowledge filter flipped {flips} of {outs[0].active_BM.numel()} times"
    )
    return within


if __name__ == "__main__":
    main()
