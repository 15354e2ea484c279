"""What every recipe is: a frozen description that turns (images, index, view) into pixels."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.canonical import json_sha256
from kdcache.datasets.people import PersonPhotos
from kdcache.errors import UsageError

Pixels = TypeVar("Pixels", NDArray[np.uint8], torch.Tensor)


def require_seed(seed: int) -> None:
    """Raises UsageError for a view seed that no recipe takes."""
    if not 0 <= seed < 2**64:
        raise UsageError(f"the view seed must lie in 0 to 2^64 - 1, got {seed}")


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """An augmentation family with its parameters; pixels are a function of (seed, view, index).

    `exact` recipes use integer arithmetic only: the same bytes on any device and torch version.
    Others are tolerant: equal `proof_parameters` everywhere, and pixels but for a level here and
    there (replay_proof.py says how many).
    `version` is raised when the pixels of a recipe change; it is part of the fingerprint.
    """

    seed: int = 0

    name: ClassVar[str]
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    has_device_form: ClassVar[bool] = False  # whether there is `on_device`
    of_people: ClassVar[bool] = False  # cuts people out of whole photographs
    num_views: ClassVar[int | None] = None  # None: as many as anyone asks for

    def __post_init__(self) -> None:
        require_seed(self.seed)

    @abstractmethod
    def __call__(self, images: Any, index_B: NDArray[np.int64], view: int) -> Any:
        """The pixels of one view, uint8 (B, C, H, W), before any normalisation.

        `images`: what the dataset's `images` gives of the samples `index_B` (int64, (B,), the
        dataset's permanent integers). Mostly a uint8 numpy array or tensor (B, C, H, W) as stored,
        on any device, and pixels of the same kind, on the same device; recipes of poses take
        PersonPhotos and give an array. Raises UsageError for other images and for a view the recipe
        does not have.
        """

    def proof_parameters(
        self, images: Any, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.float64]:
        """float64 (B, P), P up to 64: the numbers that decide these views' pixels.

        Only of recipes that are not `exact`: the replay proof holds them. Arguments as the call's.
        """
        raise NotImplementedError(f"recipe {self.name!r} is exact: its proof is of all pixels")

    def on_device(
        self, images_BCHW: torch.Tensor, index_B: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """The same bytes by tensor operations alone, for images that live on an accelerator.

        Only where `has_device_form`; it works on any device, and does not wait for it.
        """
        raise NotImplementedError(f"recipe {self.name!r} has no form for devices")

    def describe(self) -> dict[str, Any]:
        """The recipe without its seed, as JSON: what the manifest and the fingerprint hold."""
        parameters = {key: value for key, value in asdict(self).items() if key != "seed"}
        return {"name": self.name, "version": self.version, "exact": self.exact, **parameters}

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the description and the seed."""
        return json_sha256({"recipe": self.describe(), "seed": self.seed})

    def require_view(self, view: int) -> None:
        """Raises UsageError for a view that the recipe does not have."""
        if view < 0 or (self.num_views is not None and view >= self.num_views):
            available = "0 and up" if self.num_views is None else f"0 to {self.num_views - 1}"
            raise UsageError(f"recipe {self.name!r} has the views {available}, got {view}")

    def _check(self, images_BCHW: Any, index_B: NDArray[np.int64], view: int) -> None:
        if isinstance(images_BCHW, PersonPhotos):
            raise UsageError(
                f"recipe {self.name!r} is for images of one size, got whole photographs of people; "
                "take pose-affine or pose-crop"
            )
        if images_BCHW.ndim != 4 or str(images_BCHW.dtype) not in ("uint8", "torch.uint8"):
            raise UsageError(
                f"images must be uint8 of shape (B, C, H, W), got {images_BCHW.dtype} of shape "
                f"{tuple(images_BCHW.shape)}; views are made before any normalisation"
            )
        if len(index_B) != len(images_BCHW):
            raise UsageError(f"got {len(images_BCHW)} images but {len(index_B)} indices")
        self.require_view(view)
