"""`crop-flip`: zero-padded random crop and horizontal flip, the classic recipe of small images."""

import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kdcache import philox
from kdcache.devices import send
from kdcache.errors import UsageError
from kdcache.views.recipe import Pixels, Recipe

LARGEST_SIZE = 2**16


@dataclass(frozen=True, kw_only=True)
class CropParameters:
    """Where each sample's crop starts in the padded image, and whether it is mirrored."""

    top_B: NDArray[np.int64]
    left_B: NDArray[np.int64]
    flip_B: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class CropFlip(Recipe):
    """Pad every side with `padding` zeros, crop `size` x `size` at random, mirror every other view.

    He et al. 2015 (arXiv 1512.03385, section 4.2) use size 32, padding 4. `flip=False` leaves
    mirroring out, for images such as digits that mean something else mirrored.
    """

    size: int = 32
    padding: int = 4
    flip: bool = True

    name: ClassVar[str] = "crop-flip"
    has_device_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = type(self.size), type(self.padding), type(self.flip)
        if kinds != (int, int, bool):
            raise UsageError(
                "size and padding must be integers and flip true or false, got "
                f"{self.size!r:.80}, {self.padding!r:.80}, {self.flip!r:.80}"
            )
        if self.size < 1 or self.padding < 0:
            raise UsageError(f"need size >= 1 and padding >= 0, got {self.size}, {self.padding}")
        # The padded images are made in memory, and a manifest of others may state any border.
        if self.size > LARGEST_SIZE or self.padding > 4 * self.size:
            raise UsageError(
                f"need size <= {LARGEST_SIZE} and padding <= 4 x size, got {self.size}, "
                f"{self.padding}"
            )

    def parameters(self, index_B: NDArray[np.int64], view: int) -> CropParameters:
        """The crop corners (0 to 2 * padding) and flips of these samples in this view."""
        words_B4 = philox.words(self.seed, philox.Purpose.VIEW, index_B, view)
        corners = 2 * self.padding + 1
        return CropParameters(
            top_B=philox.below(words_B4[:, 0], corners),
            left_B=philox.below(words_B4[:, 1], corners),
            flip_B=(words_B4[:, 2] >> np.uint32(31)).astype(bool) & self.flip,
        )

    def __call__(self, images_BCHW: Pixels, index_B: NDArray[np.int64], view: int) -> Pixels:
        if isinstance(images_BCHW, torch.Tensor) and images_BCHW.device.type != "cpu":
            return self.on_device(images_BCHW, index_B, view)
        self._check(images_BCHW, index_B, view)
        parameters = self.parameters(index_B, view)
        if not isinstance(images_BCHW, torch.Tensor):
            return self._crop_numpy(images_BCHW, parameters)
        return torch.from_numpy(self._crop_numpy(images_BCHW.numpy(), parameters))

    def on_device(
        self, images_BCHW: torch.Tensor, index_B: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        self._check(images_BCHW, index_B, view)
        return self.crop_on_device(images_BCHW, self.parameters(index_B, view))

    def _check(self, images_BCHW: Pixels, index_B: NDArray[np.int64], view: int) -> None:
        super()._check(images_BCHW, index_B, view)
        if tuple(images_BCHW.shape[2:]) != (self.size, self.size):
            raise UsageError(
                f"crop-flip of size {self.size} needs images of {self.size} x {self.size}, "
                f"got {images_BCHW.shape[2]} x {images_BCHW.shape[3]}"
            )

    def _crop_numpy(self, images_BCHW: NDArray[np.uint8], at: CropParameters) -> NDArray[np.uint8]:
        padded = _zero_padded(images_BCHW, self.padding)
        windows = sliding_window_view(padded, (self.size, self.size), axis=(2, 3))
        every = np.arange(len(images_BCHW))
        pixels: NDArray[np.uint8] = windows[every, :, at.top_B, at.left_B]
        _mirror_rows(pixels, at.flip_B)
        return pixels

    def crop_on_device(self, images_BCHW: torch.Tensor, at: CropParameters) -> torch.Tensor:
        """The same bytes by tensor operations only, for images that live on an accelerator."""
        device, size, p = images_BCHW.device, self.size, self.padding
        together_3B = torch.from_numpy(np.stack([at.top_B, at.left_B, at.flip_B]))  # one copy
        top_B, left_B, flip_B = send(together_3B, device)
        steps = torch.arange(size, device=device)
        rows_BH = top_B[:, None] + steps
        columns_BW = left_B[:, None] + torch.where(flip_B[:, None] > 0, steps.flip(0), steps)
        padded = torch.nn.functional.pad(images_BCHW, (p, p, p, p))
        batch = torch.arange(len(images_BCHW), device=device)[:, None, None]
        # Advanced indices on both sides of the channel axis put it last: (B, H, W, C).
        pixels_BHWC = padded[batch, :, rows_BH[:, :, None], columns_BW[:, None, :]]
        return pixels_BHWC.permute(0, 3, 1, 2).contiguous()


_scratch = threading.local()


def _zero_padded(images_BCHW: NDArray[np.uint8], padding: int) -> NDArray[np.uint8]:
    """The images with a border of zeros, in memory that this thread's next call reuses.

    Fresh memory costs more in page faults than the whole crop.
    """
    batch, channels, height, width = images_BCHW.shape
    key = (images_BCHW.shape, padding)  # whoever wrote here before left the same border alone
    if getattr(_scratch, "key", None) != key:
        shape = (batch, channels, height + 2 * padding, width + 2 * padding)
        _scratch.key, _scratch.padded = key, np.zeros(shape, dtype=np.uint8)
    padded: NDArray[np.uint8] = _scratch.padded
    padded[:, :, padding : padding + height, padding : padding + width] = images_BCHW
    return padded


def _mirror_rows(pixels_BCHW: NDArray[np.uint8], flip_B: NDArray[np.bool_]) -> None:
    """Mirrors the chosen samples in place, eight pixels at a time where they divide a row."""
    if pixels_BCHW.shape[3] % 8:
        pixels_BCHW[flip_B] = pixels_BCHW[flip_B][..., ::-1]
    else:
        words = pixels_BCHW.view(np.uint64)
        words[flip_B] = words[flip_B][..., ::-1].byteswap()
