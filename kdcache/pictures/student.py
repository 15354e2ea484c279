"""What a trained student sees in views, to be drawn beside its mentors."""

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.devices import precision_context, resolve_device
from kdcache.errors import CheckpointError
from kdcache.models import checked_forward
from kdcache.train.trained import Trained


class Student:
    """Heatmaps of a trained network, as evaluated: no dropout, running BatchNorm statistics."""

    def __init__(self, trained: Trained, device: str) -> None:
        self._device = resolve_device(device)
        self._trained = trained
        self._network = trained.network.eval().to(self._device)

    @torch.inference_mode()
    def __call__(self, pixels_BCHW: NDArray[np.uint8], joints: int) -> torch.Tensor:
        """float32 (B, J, H, W), on the CPU.

        Raises UsageError for a network that gives something else, CheckpointError where it is not
        finite.
        """
        named = f"student {self._trained.architecture!r}"
        pixels = torch.from_numpy(pixels_BCHW).to(self._device)
        with precision_context(self._device, "fp32"):
            found_BJHW = checked_forward(
                named,
                self._network,
                self._trained.preprocessing(pixels),
                joints,
                output="heatmaps",
                remedy="Give a student of this store's dataset",
            )
        found_BJHW = found_BJHW.float().cpu()
        if not found_BJHW.isfinite().all():
            raise CheckpointError(
                f"the {named} gives NaN or infinite heatmaps for these views: its training "
                "diverged, or its preprocessing is another one. Give another checkpoint"
            )
        return found_BJHW
