"""What a network gives, numbers for classes or maps for joints, and errors where it does not suit.

Shapes: B batch; C classes; J joints; H, W image, of heatmaps a quarter of it.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.errors import UsageError
from kdcache.factories import runs_code
from kdcache.models.names import SHORT_NAMES, long_name
from kdcache.models.pose_names import POSE_NETWORKS, POSE_SHORT_NAMES
from kdcache.tasks import CLASSIFICATION, HEATMAP_STRIDE, POSE

if TYPE_CHECKING:
    from torch import Tensor, nn

Output = Literal["classes", "heatmaps"]  # (B, C); (B, J, H/4, W/4)
OUTPUTS: dict[str, Output] = {CLASSIFICATION: "classes", POSE: "heatmaps"}  # by task
_GIVES = {"classes": "one number a class", "heatmaps": "one map a joint"}


def output_of(name: str) -> Output | None:
    """What a network of this name, short or long, gives; None for a module:factory.

    Raises UsageError for an unknown name.
    """
    name = long_name(name)
    if runs_code(name):
        return None
    return "heatmaps" if name in POSE_NETWORKS else "classes"


def require_output(what: str, name: str, output: Output, *, remedy: str) -> None:
    """Refuses by its name a network that gives something else, before anything is built or read.

    `what` begins the error ("student 'r8'"), `remedy` ends it ("Choose another --student"). A
    module:factory passes: what it gives is known when it runs (`checked_forward`).

    Raises UsageError: unknown name, or another output.
    """
    gives = output_of(name)
    if gives not in (None, output):
        raise UsageError(
            f"{what} gives {_GIVES[gives]}, expected {_GIVES[output]}. {_suitable(output)} {remedy}"
        )


def checked_forward(
    what: str,
    network: "nn.Module",
    images_BCHW: "Tensor",
    num_classes: int,
    *,
    output: Output = "classes",
    remedy: str,
) -> "Tensor":
    """The raw output: (B, num_classes), or with `output="heatmaps"` (B, num_classes, H/4, W/4).

    `what` begins the errors ("student 'r8'"), `remedy` ends them ("Choose another --student").

    Raises UsageError when the network cannot run on such images or gives another shape.
    """
    import torch

    shape = tuple(images_BCHW.shape)
    try:
        given = network(images_BCHW)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"{what} cannot run on a batch of shape {shape}: {str(error).splitlines()[0]}. "
            f"{_sizes(output, shape)}{remedy}"
        ) from error
    expected: tuple[int, ...] = (len(images_BCHW), num_classes)
    if output == "heatmaps":
        expected += tuple(side // HEATMAP_STRIDE for side in shape[-2:])
    if isinstance(given, torch.Tensor) and tuple(given.shape) == expected:
        return given
    hint = _sizes(output, shape)
    if isinstance(given, torch.Tensor) and given.ndim != len(expected):
        hint = f"{_suitable(output)} "
    got = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    raise UsageError(
        f"{what} must give {_GIVES[output]}, {expected}, for a batch of shape {shape}; it "
        f"gave {got}. {hint}{remedy}"
    )


def _suitable(output: Output) -> str:
    if output == "heatmaps":
        return f"Pose networks are {', '.join(POSE_SHORT_NAMES)}, and your own by module:factory."
    classifiers = [name for name in SHORT_NAMES if name not in POSE_SHORT_NAMES]
    return f"Classifiers are {', '.join(classifiers)} and others, such as torchvision:NAME."


def _sizes(output: Output, shape: tuple[int, ...]) -> str:
    if output == "classes" or all(side % 32 == 0 for side in shape[-2:]):
        return ""
    return "Heights and widths of views must be multiples of 32, such as 256 x 192. "
