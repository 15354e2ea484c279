"""What the runs of one process have in common, opened once: datasets, and streams of targets.

Every run asks for what it needs; the second to ask for the same gets the same object. A stream's
views are in memory once however many students they teach.
"""

import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch

from kdcache.datasets import ImageDataset, open_dataset
from kdcache.store import TargetStore
from kdcache.stream import TargetStream

_Thing = TypeVar("_Thing")


class Shared:
    """Begins empty, and keeps what was asked for."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def dataset(
        self, name: str, split: str = "train", *, data_dir: str | os.PathLike[str] | None = None
    ) -> ImageDataset:
        """As `open_dataset`."""
        return self._once(
            ("dataset", name, split, data_dir), lambda: open_dataset(name, split, data_dir=data_dir)
        )

    def stream(
        self,
        store: TargetStore,
        mentors: Sequence[str],
        device: torch.device,
        *,
        views: Sequence[int] | None,
        **given: Any,
    ) -> TargetStream:
        """As `TargetStream`."""
        chosen = None if views is None else tuple(views)
        key = ("stream", store.root.resolve(), tuple(mentors), device, chosen, *given.items())
        return self._once(key, lambda: TargetStream(store, mentors, device, views=views, **given))

    def samples(
        self, stream: TargetStream, dataset: ImageDataset, count: int | None
    ) -> ImageDataset:
        """The part of `dataset` that is trained on, proven to be the stream's store's."""
        return self._once(
            ("samples", stream, dataset, count),
            lambda: stream.require_dataset(dataset.select(count), narrow=count is None),
        )

    def _once(self, key: Hashable, make: Callable[[], _Thing]) -> _Thing:
        if key not in self._kept:
            self._kept[key] = make()
        thing: _Thing = self._kept[key]
        return thing
