"""A row's logsumexp as target: what log-softmax took from the raw logits.

raw logits = log-probabilities + logsumexp: the one number a row by which methods that compare raw
logits, such as logit MSE, get them back from stored log-probabilities.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder
from kdcache.encode.target_kind import TargetKind


class LogSumExp(TargetKind):
    """Rows are one float32 number, of shape (); always exact: it moves a whole row of logits."""

    name = "logsumexp"
    dimension_names = ()
    values = "logsumexps"
    encoders = ("float32",)
    option = "--keep-logsumexp"

    def row_shape(self, described: Mapping[str, Any], width: int | None = None) -> tuple[int, ...]:
        return ()

    def encoder_beside(self, primary: Encoder) -> str:
        return "float32"

    def from_forward(
        self, output_BC: torch.Tensor, features_BF: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.logsumexp(output_BC.to(torch.float32), dim=-1)

    def error_sums(
        self,
        exact: NDArray[np.float32],
        decoded: NDArray[np.float32],
        labels_B: NDArray[np.int64],
    ) -> dict[str, float]:
        """None: it is stored exactly."""
        return {}


def raw_logits(log_probs_BMC: torch.Tensor, logsumexp_BM: torch.Tensor) -> torch.Tensor:
    """float32 (B, M, C): the logits as the networks gave them, within float32 rounding."""
    return log_probs_BMC + logsumexp_BM.unsqueeze(-1)
