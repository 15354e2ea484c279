"""Logits as targets: log-probabilities, so that softmax at any temperature is unchanged."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.target_kind import TargetKind, measured_rows

TEMPERATURES = (1, 4, 12)


class Logits(TargetKind):
    """Rows are float32 log-softmax vectors (C,)."""

    name = "logits"
    dimension_names = ("class",)
    values = "outputs"
    largest = "log_prob"
    encoders = ("float32", "float16", "sqrt8", "sqrt8-zstd", "residual", "coarse")

    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        return (int(described["num_classes"]),)

    def encoder_beside(self, primary: Encoder) -> str:
        return primary.name

    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.log_softmax(output_BC.to(torch.float32), dim=-1)

    def num_correct(self, targets: NDArray[np.float32], labels_B: NDArray[np.int64]) -> int:
        return int((targets.argmax(axis=-1) == labels_B).sum())

    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """`kl_t*`: KL(exact || decoded) at each temperature, in float64; `p_true`: |change| of the
        true label's probability, which is also the probability that the knowledge filter flips
        against a student of uniformly distributed confidence.
        """
        rows = measured_rows(len(exact))
        exact_KC, decoded_KC = (
            torch.from_numpy(a[rows]).to(torch.float64) for a in (exact, decoded)
        )
        sums = {"measured_rows": float(len(rows))}
        for temperature in TEMPERATURES:
            kl_K = _divergences(exact_KC, decoded_KC, temperature)
            sums[f"kl_t{temperature}"] = float(kl_K.sum())
        true_K = torch.from_numpy(labels_B[rows])[:, None]
        p_true_K, q_true_K = (
            torch.log_softmax(z, dim=-1).gather(1, true_K).exp() for z in (exact_KC, decoded_KC)
        )
        p_change_K = (p_true_K - q_true_K).abs()
        sums["p_true"] = float(p_change_K.sum())
        sums["max_p_true"] = float(p_change_K.max())
        sums["max_log_prob"] = float(np.abs(exact - decoded).max())
        return sums

    def cost(self, errors: Mapping[str, float]) -> float:
        """The largest mean KL divergence."""
        return max(stated_divergences(errors))


def stated_divergences(errors: Mapping[str, float]) -> list[float]:
    """The mean divergences that means of error sums state, by temperature; 0 where none is."""
    return [errors.get(f"kl_t{temperature}", 0.0) for temperature in TEMPERATURES]


def mean_divergences(exact: NDArray[np.float32], decoded: NDArray[np.float32]) -> dict[int, float]:
    """The mean KL(exact || decoded) of rows (K, C), in nats, by temperature."""
    exact_KC, decoded_KC = (torch.from_numpy(a).to(torch.float64) for a in (exact, decoded))
    return {t: float(_divergences(exact_KC, decoded_KC, t).mean()) for t in TEMPERATURES}


def _divergences(
    exact_KC: torch.Tensor, decoded_KC: torch.Tensor, temperature: int
) -> torch.Tensor:
    lp_KC, lq_KC = (torch.log_softmax(z / temperature, dim=-1) for z in (exact_KC, decoded_KC))
    # The exact KL is a sum of terms far larger than itself; clamp rounding below zero.
    return (lp_KC.exp() * (lp_KC - lq_KC)).sum(-1).clamp(min=0)
