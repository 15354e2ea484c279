"""The classrooms' networks as mentors and as students."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.checkpoints import load_weights
from kdcache.datasets import ImageDataset
from kdcache.errors import UsageError
from kdcache.mentors import Mentor, MentorPool, RunShape, load_mentor
from kdcache.models import build_network, checked_forward

CLASSROOM = ["vgg8", "vgg13", "mobilenetv2", "shufflenetv1", "shufflenetv2", "resnet50"]


@pytest.mark.parametrize("name", CLASSROOM)
def test_neighbours_do_not_change_a_rows_bits(digits: ImageDataset, name: str) -> None:
    mentor = Mentor(
        name=name,
        architecture=name,
        network=build_network(name, 10, seed=0).eval(),
        num_classes=10,
        preprocessing=digits.preprocessing,
        checkpoint_sha256="0" * 64,
    )
    pool = MentorPool([mentor], device=torch.device("cpu"), run_shape=RunShape(batch=64))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (80, 3, 16, 16), dtype=np.uint8)
    rows = pool.run(images)[:, 0]  # two passes, the second padded
    order = generator.permutation(80)[:64]
    assert torch.equal(pool.run(images[order])[:, 0], rows[order])
    alone = images[[70]]
    assert torch.equal(pool.run(alone)[0, 0], rows[70])


@pytest.mark.parametrize("name", CLASSROOM)
def test_a_mentor_is_precomputed_and_a_student_learns_from_it(
    tmp_path: Path, digits: ImageDataset, digits_checkpoint: Callable[[str], Path], name: str
) -> None:
    mentor = load_mentor(name, digits, digits_checkpoint(name))
    store = kdcache.precompute_targets(digits, [mentor], store=tmp_path / "store", views=1)
    out = tmp_path / "run"
    records = list(
        kdcache.train_student(
            student=name,
            dataset="digits",
            samples=100,
            store=str(store.root),
            epochs=1,
            batch_size=50,  # two steps
            seed=1,
            out=str(out),
        )
    )
    assert len(records) == 1
    assert np.isfinite(records[0]["train_loss"])
    trained = build_network(name, 10, seed=1)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    load_weights(trained, next(out.glob("student.*")))
    after = trained.state_dict()
    assert after.keys() == before.keys()
    assert all(after[key] == 2 for key in after if key.endswith("num_batches_tracked"))
    changed = [key for key in after if not torch.equal(after[key], before[key])]
    assert len(changed) == len(after)


def test_images_too_small_for_a_vgg_are_the_users_to_read() -> None:
    network = build_network("vgg8", 10, seed=0).eval()
    with pytest.raises(
        UsageError, match=r"student 'vgg8' cannot run on a batch of shape \(2, 3, 4"
    ):
        checked_forward("student 'vgg8'", network, torch.zeros(2, 3, 4, 4), 10, remedy="Choose")
