"""A network's pooled features: what goes into its classifier, caught while the network runs.

Only the classifier itself tells where every network's pooling ends, so it is what is watched: the
last `nn.Linear`, or 1x1 `nn.Conv2d`, with one output a class. Ours, torchvision's and timm's
networks end in one of the two.

    tap = FeatureTap(network, num_classes)
    with tap:
        logits_BC = network(pixels_BCHW)
    tap.features_BF

Shapes: B batch; C channels in pixels_BCHW, classes in logits_BC; F features; H, W image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdcache.errors import UsageError


class _Run(NamedTuple):
    """One call of a layer that could be the classifier."""

    layer: nn.Module
    given: Tensor
    output: Tensor

    def pooled(self) -> Tensor:
        """What it was given, as float32 (B, F), averaged over places."""
        given = self.given.float()
        if isinstance(self.layer, nn.Conv2d):
            return given.mean((-2, -1))
        return given.flatten(1, -2).mean(1) if given.ndim > 2 else given


class FeatureTap:
    """Keeps the classifier's input of each forward pass made inside `with tap:`.

    Raises UsageError, when it is made, for a network without a layer that could be the classifier.
    Outside `with` the network bears no hook; passes of a copy made inside are not seen.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        self._network = network
        self._num_classes = num_classes
        self._candidates = [m for m in network.modules() if _could_classify(m, num_classes)]
        if not self._candidates:
            raise UsageError(
                f"{_kind(network)} has no classifier to take pooled features from: expected an "
                f"nn.Linear, or a 1x1 nn.Conv2d, with {num_classes} outputs, one a class. Choose "
                "another network, or give yours such a last layer"
            )
        self._handles: list[RemovableHandle] = []
        self._runs: list[_Run] = []
        self._features_BF: Tensor | None = None
        self._shape: tuple[int, ...] = ()  # the output's shape

    @property
    def features_BF(self) -> Tensor:
        """Of the last forward pass: float32 (B, F), with its gradient where the pass had one.

        A classifier that runs at many places before they are averaged (a 1x1 convolution over
        maps, a linear layer over tokens) has its input averaged over them.

        Raises UsageError when there was no pass, or no classifier ran in it as a module, and for a
        pose network: its 1x1 convolution makes maps, one a joint.
        """
        if len(self._shape) > 2:
            raise UsageError(
                f"{_kind(self._network)} gives maps, {self._shape}, and has no pooled features: "
                "those are a classifier's, the numbers that it classifies by"
            )
        if self._features_BF is None:
            raise UsageError(
                f"no pooled features of {_kind(self._network)}: run it inside `with tap:`. If it "
                f"was, its layer of {self._num_classes} outputs did not run as a module that takes "
                "one row a sample, or several such layers ran and the network's output is none of "
                "theirs; pooled features need a network that ends in one such layer"
            )
        return self._features_BF

    def __enter__(self) -> Self:
        assert not self._handles, "a FeatureTap is entered once at a time"
        begin, ran, end = self._hooks()
        self._handles = [self._network.register_forward_pre_hook(begin)]
        self._handles += [m.register_forward_hook(ran, with_kwargs=True) for m in self._candidates]
        # Registered last, it runs last, also where network and classifier are one.
        self._handles.append(self._network.register_forward_hook(end))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._runs = [], []

    def _hooks(self) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
        """Plain functions: a deep copy of the network shares these, where it would copy methods."""
        network = self._network
        candidates = {id(module) for module in self._candidates}

        def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module is network:
                self._runs, self._features_BF, self._shape = [], None, ()

        def ran(
            module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Tensor
        ) -> None:
            if id(module) in candidates:
                self._runs.append(_Run(module, args[0] if args else options["input"], output))

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if module is network:
                self._shape = tuple(output.shape) if isinstance(output, Tensor) else ()
                self._features_BF = _pooled_features(self._runs, output)
                self._runs = []

        return begin, ran, end


def feature_width(network: nn.Module, images_BCHW: Tensor) -> int:
    """How many pooled features F the network has for float images_BCHW on its device.

    Runs the network in eval mode and without gradients; its mode and buffers stay as they were.
    Raises UsageError for a network without a classifier (`FeatureTap`).
    """
    with _evaluating(network), torch.no_grad():
        logits_BC = network(images_BCHW)
        if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2:
            got = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC)
            raise UsageError(
                f"{_kind(network)} must give one number a class, (B, C), for a batch of shape "
                f"{tuple(images_BCHW.shape)} to have pooled features; it gave {got}"
            )
        with FeatureTap(network, logits_BC.shape[1]) as tap:
            network(images_BCHW)
    return tap.features_BF.shape[1]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    were = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in were:
            module.training = training


def _could_classify(module: nn.Module, num_classes: int) -> bool:
    if isinstance(module, nn.Linear):
        return module.out_features == num_classes
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.groups == 1
        and module.out_channels == num_classes
    )


def _pooled_features(runs: list[_Run], output: Any) -> Tensor | None:
    """Of the last run whose numbers became the output as they are; without one, of the only run.

    None where several ran and it cannot be told which of them classifies.
    """
    if not runs or not isinstance(output, Tensor):
        return None
    became = [run for run in runs if _share_memory(run.output, output)]
    if not became and len(runs) > 1:
        return None
    features_BF = (became or runs)[-1].pooled()
    return features_BF if len(features_BF) == len(output) else None


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether one is the other or a view of it (squeezed, flattened)."""
    return a is b or a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _kind(network: nn.Module) -> str:
    return f"the network {type(network).__name__}"
