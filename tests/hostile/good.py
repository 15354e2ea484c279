"""The small good store that hostile ones are made from: digits, two mentors, two blocks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import kdcache.store.layout
from kdcache.checkpoints import file_sha256, save_weights
from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import FEATURES, LOGITS, LOGSUMEXP, TargetKind, find_encoder
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.models import build_network
from kdcache.store import (
    MentorManifest,
    chunk_payload,
    commit_chunk,
    commit_targets,
    ensure_mentor,
    ensure_store,
    gather_commits,
    new_manifest,
    open_store,
    write_commit_index,
)
from kdcache.views import make_recipe

SAMPLES, BLOCK, VIEWS = 40, 20, 2
ENCODERS = {"r8": "float16", "r14": "sqrt8-zstd"}
RUN_SHAPE = RunShape(batch=64)


@dataclass(frozen=True, kw_only=True)
class Good:
    """The store, its data, and one of its mentors, which is at hand."""

    root: Path
    checkpoint: Path
    dataset: ImageDataset
    mentor: Mentor


def make_good(folder: Path) -> Good:
    """Two views of 40 digits: by r8 (float16) what it says, in every kind of target; by r14
    (sqrt8-zstd) random logits."""
    kdcache.store.layout.TARGET_BLOCK = BLOCK
    dataset = open_dataset("digits", samples=SAMPLES)
    recipe = make_recipe("crop-flip", **dataset.view_parameters)
    manifest, root = new_manifest(dataset, recipe), folder / "good"
    ensure_store(root, manifest, dataset)
    checkpoint = folder / "r8.safetensors"
    save_weights(checkpoint, build_network("r8", 10, seed=0), {})
    at_hand = load_mentor("r8", dataset, checkpoint)
    pool = MentorPool([at_hand], device=torch.device("cpu"), run_shape=RUN_SHAPE)
    for name, encoder_name in ENCODERS.items():
        mentor = MentorManifest(
            fingerprint=manifest.fingerprint,
            name=name,
            architecture=f"resnet{name[1:]}",
            num_classes=10,
            checkpoint_sha256=file_sha256(checkpoint) if name == "r8" else "0" * 64,
            preprocessing=dataset.preprocessing.describe(),
            run_shape=RUN_SHAPE.describe(),
        )
        encoder = find_encoder(encoder_name)
        ensure_mentor(root, manifest, mentor, encoder, LOGITS, VIEWS)
        stored = open_store(root).mentor(name)
        random = np.random.default_rng(0)
        for view in range(VIEWS):
            for block in range(manifest.num_blocks):
                index_B = dataset.index_N[manifest.block_rows(block)]
                logits = torch.from_numpy(random.normal(size=(BLOCK, 10)))
                rows = torch.log_softmax(logits.to(torch.float32), -1).numpy()
                if name == "r8":
                    pixels = recipe(dataset.images(index_B), index_B, view)
                    rows = pool.run(pixels)[:, 0].numpy()
                commit_chunk(
                    stored.array,
                    (view, block),
                    chunk_payload(encoder.encode(rows), manifest.block, encoder),
                    rows=BLOCK,
                    correct=5,
                    error_sums={"measured_rows": 20.0, "kl_t1": 0.1, "max_p_true": 0.2},
                    identity=stored.identity,
                    encoder=encoder,
                )
        stored = open_store(root).mentor(name)
        write_commit_index(stored.array, stored.commits.values())
    for kind in (FEATURES, LOGSUMEXP):
        _add_kind(root, dataset, pool, kind)
    return Good(
        root=root,
        checkpoint=checkpoint,
        dataset=dataset,
        mentor=at_hand,
    )


def _add_kind(root: Path, dataset: ImageDataset, pool: MentorPool, kind: TargetKind) -> None:
    """What r8 gives of one more kind."""
    store = open_store(root)
    logits = store.mentor("r8")
    encoder = find_encoder(kind.encoder_beside(logits.encoder))
    width = 64 if kind.from_features else None
    ensure_mentor(root, store.manifest, logits.manifest, encoder, kind, VIEWS, width)
    stored = open_store(root).mentor("r8", kind.name)
    for view in range(VIEWS):
        for block in range(store.manifest.num_blocks):
            index_B = dataset.index_N[store.manifest.block_rows(block)]
            pixels = store.recipe(dataset.images(index_B), index_B, view)
            (rows,) = pool.targets(pixels, [("r8", kind)])
            labels_B = dataset.labels(index_B)
            commit_targets(stored, (view, block), rows.numpy(), labels_B, store.manifest.block)
    gather_commits(stored.array, stored.identity)
