"""A forward pass that says so when network and images do not suit each other."""

from typing import TYPE_CHECKING

from kdcache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn


def checked_forward(
    what: str, network: "nn.Module", images_BCHW: "Tensor", num_classes: int, *, remedy: str
) -> "Tensor":
    """The raw output, (B, num_classes).

    `what` begins the errors ("student 'r8'"), `remedy` ends them ("Choose another --student").

    Raises UsageError when the network cannot run on such images or gives another shape.
    """
    import torch

    shape = tuple(images_BCHW.shape)
    try:
        output = network(images_BCHW)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{what} cannot run on a batch of shape {shape}: {str(error).splitlines()[0]}. {remedy}"
        ) from error
    expected = (len(images_BCHW), num_classes)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != expected:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UsageError(
            f"{what} must give one number a class, {expected}, for a batch of shape {shape}; it "
            f"gave {got}. {remedy}"
        )
    return output
