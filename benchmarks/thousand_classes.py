"""A stand-in for a mentor of 1,000 classes, made of real features, and how its targets are stored.

No network trained for 1,000 classes is at hand. Features of a real one are: every one of the 100
classes is split into ten pseudo-classes by k-means, and a linear classifier of 1,000 is trained on
them. Its tails are those of a classifier that was trained, which is what encoders feel.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.fidelity import measure_loss
from benchmarks.material import Settings
from benchmarks.paired import Budget, Spread
from benchmarks.table import Row
from kdcache.calibration import calibration_rows
from kdcache.encode import FITTED, Encoder, find_encoder
from kdcache.store import TargetStore, chunk_payload

MENTOR = "r56"
PARTS = 10
FIDELITY = 1e-3
KEPT = (64, 128)
BUDGET = Budget(limit=FIDELITY, higher_is_better=False)
NAMED = "1,000 pseudo-classes (stand-in)"


def measure_thousand_classes(settings: Settings, store: TargetStore) -> Iterator[Row]:
    """`store`: exact, with the features of `MENTOR`; its last view is held out."""
    views = list(range(store.num_views))
    features = [store.targets(v, store.index_N, [MENTOR], kind="features")[0] for v in views]
    pseudo_N = pseudo_classes(features[0], store.labels_N)
    epochs = settings.size(full=8, quick=1)
    *fitted_on, exact_NC = _classifier_log_probs(features, pseudo_N, epochs)
    top1 = 100 * float((exact_NC.argmax(axis=1) == pseudo_N).mean())
    about = (
        f"linear classifier on {MENTOR}'s features, k-means classes, {top1:.0f}% right on "
        f"{len(pseudo_N):,} rows of a held-out view"
    )
    rows_K = calibration_rows(len(pseudo_N), exact_NC.shape[1])
    some_KC, some_K = fitted_on[-1][rows_K], pseudo_N[rows_K]  # another view, as always
    encoders = [
        find_encoder("float16"),
        *(FITTED[name].fit(some_KC, some_K, FIDELITY) for name in ("residual", "coarse")),
    ]
    for encoder in encoders:
        stored = encoder.encode(exact_NC, pseudo_N)
        size = len(chunk_payload(stored, len(stored), encoder)) / len(stored)
        yield _row(
            encoder.name, size, exact_NC, _decoded(encoder, stored, pseudo_N), pseudo_N, about
        )
    for k in KEPT:
        yield _row(f"top-{k}", 4 * k + 2, exact_NC, top_k_decoded(exact_NC, k), pseudo_N, about)


def _row(
    name: str,
    size: float,
    exact_NC: NDArray[np.float32],
    decoded_NC: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    about: str,
) -> Row:
    loss = measure_loss(exact_NC, decoded_NC, labels_N)
    return Row(
        what=f"{NAMED}: largest mean KL, {name}",
        measured=Spread(median=loss.worst, low=loss.worst, high=loss.worst, n=1),
        budget=BUDGET,
        detail=f"{size:.0f} bytes a row; T = 1 / 4 / 12: {loss}; {about}",
    )


def _decoded(
    encoder: Encoder, stored: NDArray[np.generic], labels_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    parts = [
        encoder.round_trip(stored[start : start + 1000], labels_N[start : start + 1000])
        for start in range(0, len(stored), 1000)
    ]
    return np.concatenate(parts)


def top_k_decoded(log_probs_NC: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """As published caches keep them: the k largest in float16 with their classes (uint16), the mass
    of all others (float16) spread evenly. 4 k + 2 bytes a row.
    """
    top_NK = np.argpartition(log_probs_NC, -k, axis=1)[:, -k:]
    kept_NK = np.take_along_axis(log_probs_NC, top_NK, axis=1)
    others = log_probs_NC.astype(np.float64)
    np.put_along_axis(others, top_NK, -np.inf, axis=1)
    tail_N = np.logaddexp.reduce(others, axis=1).astype(np.float16)
    each_N = tail_N.astype(np.float32) - np.float32(np.log(log_probs_NC.shape[1] - k))
    decoded_NC = np.repeat(each_N[:, None], log_probs_NC.shape[1], axis=1)
    np.put_along_axis(decoded_NC, top_NK, kept_NK.astype(np.float16).astype(np.float32), axis=1)
    return decoded_NC


def pseudo_classes(
    features_NF: NDArray[np.float32], labels_N: NDArray[np.int64], rounds: int = 20
) -> NDArray[np.int64]:
    """int64 (N,): label * PARTS + the nearest of PARTS means of that label's samples (Lloyd)."""
    generator = np.random.default_rng(0)
    part_N = np.zeros(len(labels_N), dtype=np.int64)
    for label in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == label)
        own_KF = features_NF[rows]
        means = own_KF[generator.permutation(len(rows))[:PARTS]]
        for _ in range(rounds):
            nearest_K = ((own_KF[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
            for part in np.unique(nearest_K):
                means[part] = own_KF[nearest_K == part].mean(axis=0)
        part_N[rows] = nearest_K
    return labels_N * PARTS + part_N


def _classifier_log_probs(
    features: list[NDArray[np.float32]], classes_N: NDArray[np.int64], epochs: int
) -> list[NDArray[np.float32]]:
    """float32 (N, 1000) of the last two views; the classifier was trained on all but the last."""
    mean_F, std_F = features[0].mean(axis=0), features[0].std(axis=0) + 1e-6
    inputs = [torch.from_numpy((each - mean_F) / std_F) for each in features]
    generator = torch.Generator().manual_seed(0)
    train_KF, train_K = torch.cat(inputs[:-1]), torch.from_numpy(classes_N).repeat(len(inputs) - 1)
    classifier = torch.nn.Linear(train_KF.shape[1], PARTS * 100)
    with torch.no_grad():
        classifier.weight.normal_(0, 0.01, generator=generator)
        classifier.bias.zero_()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for _ in range(epochs):
        order_K = torch.randperm(len(train_K), generator=generator)
        for rows_B in torch.split(order_K, 256):
            loss = torch.nn.functional.cross_entropy(classifier(train_KF[rows_B]), train_K[rows_B])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.inference_mode():
        return [torch.log_softmax(classifier(each), dim=-1).numpy() for each in inputs[-2:]]
