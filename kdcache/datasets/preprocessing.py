"""Pixels (uint8) to a network's input (float32): the channel means and deviations it knows."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """`(pixels / 255 - mean) / std` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        # Bounds far beyond any pixel: a std of 1e-50 would be 0 in float32.
        usable = all(1e-30 < v < 1e30 for v in self.std) and all(
            -1e30 < v < 1e30 for v in self.mean
        )
        if len(self.mean) != len(self.std) or not self.mean or not usable:
            got = f"{self.mean}, {self.std}"
            raise ValueError(f"mean and std need one number a channel and std > 0, got {got:.200}")

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, H, W) to float32 of the same shape, memory format and device."""
        if pixels_BCHW.shape[1] != len(self.mean):
            raise ValueError(
                f"preprocessing has {len(self.mean)} channels, pixels have {pixels_BCHW.shape[1]}"
            )
        mean, std = (_per_channel(v, pixels_BCHW.device) for v in (self.mean, self.std))
        return (pixels_BCHW.to(torch.float32) / 255 - mean) / std

    def describe(self) -> dict[str, Any]:
        """As JSON, for sidecars and manifests."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_description(cls, description: Any, channels: int | None = None) -> "Preprocessing":
        """The inverse of `describe`. Raises ValueError for anything else, or other channels."""
        try:
            mean, std = (tuple(_number(v) for v in description[key]) for key in ("mean", "std"))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise ValueError(
                'preprocessing must look like {"mean": [...], "std": [...]}, got '
                f"{repr(description)[:200]}"
            ) from None
        found = cls(mean=mean, std=std)
        if channels not in (None, len(mean)):
            raise ValueError(f"preprocessing has {len(mean):,} channels, the images {channels}")
        return found


def _number(value: Any) -> float:
    if isinstance(value, bool | str):  # which float would take
        raise TypeError
    return float(value)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 (1, C, 1, 1) on the device; kept, since copying it there waits for the device."""
    with torch.inference_mode(False):  # the first caller's mode must not be the next one's
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
