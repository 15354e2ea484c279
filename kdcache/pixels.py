"""A view's pixels on the training device: made on the host and sent, or made where they are used.

Images that are in memory anyway and small beside the device's (CIFAR-100: 154 MB) are copied there
once; a group of samples is then two small copies and a few kernels, and the host is free. Every
other dataset or recipe is replayed on the host, as precompute does; the bytes are the same.

    pixels = view_pixels(dataset, recipe, device)
    pixels_BCHW = pixels(index_B, view)               # uint8, on the device
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.devices import free_memory, send
from kdcache.errors import UsageError
from kdcache.views import Recipe

SHARE = 0.25  # of the device's free memory that resident images may take
_AT_ONCE = 8192  # images copied to the device together
_Replayed = TypeVar("_Replayed")
# One copy a dataset and device, whoever uses it: a sweep's students share theirs.
_COPIES: WeakKeyDictionary[ImageDataset, dict[torch.device, torch.Tensor]] = WeakKeyDictionary()


class ViewPixels(Protocol):
    """Pixels by sample and view."""

    def __call__(self, index_B: NDArray[np.int64], view: int) -> torch.Tensor:
        """uint8 (B, C, H, W) on the device, before any normalisation."""
        ...


def view_pixels(
    dataset: ImageDataset, recipe: Recipe, device: torch.device, *, resident: bool | None = None
) -> ViewPixels:
    """`resident`: whether the images are kept on the device; None: where that is sensible.

    Raises UsageError when they cannot be and `resident` is true.
    """
    if resident is None:
        resident = (
            device.type != "cpu"
            and dataset.in_memory
            and recipe.has_device_form
            and _num_bytes(dataset) <= SHARE * free_memory(device)
        )
    if resident and not recipe.has_device_form:
        raise UsageError(
            f"recipe {recipe.name!r} cannot make its views on a device; leave resident_pixels out"
        )
    chosen = ResidentPixels if resident else HostPixels
    return chosen(dataset, recipe, device)


@contextmanager
def replayed_ahead(
    replay: Callable[[NDArray[np.int64], int], _Replayed],
    view: int,
    groups: Sequence[NDArray[np.int64]],
    *,
    ahead: int,
) -> Iterator[Iterator[_Replayed]]:
    """What `replay` gives of each group of samples, in order; `ahead` more of them are under way or
    ready while one is used.

    For photographs, whose decoding takes as long as a step of a small student and leaves the
    interpreter free. 0: each when it is asked for. What `replay` raises is raised where its group
    would have come. Leaving waits for the groups being replayed, and drops the others.
    """
    if not ahead:
        yield (replay(index_G, view) for index_G in groups)
        return
    process = os.getpid()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="kdcache-views")
    waiting: deque[tuple[NDArray[np.int64], Future[_Replayed] | None]] = deque()

    def first() -> _Replayed:
        index_G, coming = waiting.popleft()
        if coming is None or process != os.getpid():  # a fork: the parent's threads do not run here
            return replay(index_G, view)
        return coming.result()

    def in_order() -> Iterator[_Replayed]:
        for index_G in groups:
            here = process == os.getpid()
            waiting.append((index_G, pool.submit(replay, index_G, view) if here else None))
            if len(waiting) > ahead:
                yield first()
        while waiting:
            yield first()

    try:
        yield in_order()
    finally:
        if process == os.getpid():
            pool.shutdown(cancel_futures=True)
        waiting.clear()


class HostPixels:
    """Made on the host; to CUDA through pinned memory, so that nothing waits for the copy."""

    def __init__(self, dataset: ImageDataset, recipe: Recipe, device: torch.device) -> None:
        self._dataset, self._recipe, self._device = dataset, recipe, device

    def __call__(self, index_B: NDArray[np.int64], view: int) -> torch.Tensor:
        pixels_BCHW = self._recipe(self._dataset.images(index_B), index_B, view)
        return send(torch.from_numpy(pixels_BCHW), self._device)


class ResidentPixels:
    """Made on the device, of images that stay there: N x C x H x W bytes."""

    def __init__(self, dataset: ImageDataset, recipe: Recipe, device: torch.device) -> None:
        self._recipe, self._device, self._index_N = recipe, device, dataset.index_N
        copies = _COPIES.setdefault(dataset, {})
        if device not in copies:
            copies[device] = _copy_images(dataset, device)
        self._images_NCHW = copies[device]

    def __call__(self, index_B: NDArray[np.int64], view: int) -> torch.Tensor:
        position_B = np.searchsorted(self._index_N, index_B)
        images_BCHW = self._images_NCHW.index_select(
            0, send(torch.from_numpy(position_B), self._device)
        )
        return self._recipe.on_device(images_BCHW, index_B, view)


def _copy_images(dataset: ImageDataset, device: torch.device) -> torch.Tensor:
    shape = dataset.images(dataset.index_N[:1]).shape[1:]
    images_NCHW = torch.empty((len(dataset), *shape), dtype=torch.uint8, device=device)
    for start in range(0, len(dataset), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        images_NCHW[rows] = send(torch.from_numpy(dataset.images(dataset.index_N[rows])), device)
    return images_NCHW


def _num_bytes(dataset: ImageDataset) -> int:
    return len(dataset) * int(dataset.images(dataset.index_N[:1]).nbytes)
