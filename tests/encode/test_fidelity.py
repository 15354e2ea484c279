"""What encoding costs real mentors on real images: the errors that the encoders promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcache.datasets import open_dataset
from kdcache.encode import find_encoder
from kdcache.mentors import MentorPool, RunShape, load_mentors
from kdcache.store import chunk_payload
from kdcache.views import make_recipe

MENTORS = ("r20", "r32", "r44", "r56")
SAMPLES = 300


@pytest.fixture(scope="module")
def targets_by_mentor(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, NDArray[np.float32]]:
    """float32 log-probabilities (300, 100) of crop-flip views of training images."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KDCACHE_HOME", str(tmp_path_factory.mktemp("home")))
        dataset = open_dataset("cifar100", samples=SAMPLES)
        recipe = make_recipe("crop-flip", seed=1, **dataset.view_parameters)
        pool = MentorPool(
            load_mentors(MENTORS, dataset), device=torch.device("cpu"), run_shape=RunShape(batch=64)
        )
        pixels = recipe(dataset.images(dataset.index_N), dataset.index_N, 7)
        targets_BMC = pool.run(pixels).numpy()
    columns = enumerate(pool.names)
    return {name: np.ascontiguousarray(targets_BMC[:, column]) for column, name in columns}


def mean_kl(exact: NDArray[np.float32], decoded: NDArray[np.float32], temperature: float) -> float:
    """Kullback-Leibler divergence of the softened distributions, in float64, mean over rows."""
    exact_BC, decoded_BC = (a.astype(np.float64) / temperature for a in (exact, decoded))
    lp, lq = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (exact_BC, decoded_BC))
    return float((np.exp(lp) * (lp - lq)).sum(-1).mean())


@pytest.mark.parametrize("mentor", MENTORS)
@pytest.mark.parametrize(
    ("name", "most"), [("float16", 1e-6), ("sqrt8", 1e-4), ("sqrt8-zstd", 1e-4)]
)
def test_real_mentors_lose_no_more_than_promised(
    targets_by_mentor: dict[str, NDArray[np.float32]], mentor: str, name: str, most: float
) -> None:
    exact, encoder = targets_by_mentor[mentor], find_encoder(name)
    decoded = encoder.decode(torch.from_numpy(encoder.encode(exact))).numpy()
    assert (np.abs(decoded.astype(np.float64) - exact) <= encoder.bound(exact)).all()
    for temperature in (1, 4, 12):
        assert mean_kl(exact, decoded, temperature) <= most


@pytest.mark.parametrize("mentor", MENTORS)
def test_compression_pays_on_real_mentors(
    targets_by_mentor: dict[str, NDArray[np.float32]], mentor: str
) -> None:
    sizes = []
    for encoder in (find_encoder("sqrt8"), find_encoder("sqrt8-zstd")):
        rows = encoder.encode(targets_by_mentor[mentor])
        sizes.append(len(chunk_payload(rows, len(rows), encoder)))
    assert sizes[0] == SAMPLES * 100
    assert sizes[1] < sizes[0]
