"""What a student says of a store's views, batch by batch."""

from collections.abc import Callable, Iterator

from torch import Tensor

from kdcache.devices import precision_context
from kdcache.errors import CheckpointError
from kdcache.loader import Batch, ReplayLoader
from kdcache.models import OUTPUTS, checked_forward
from kdcache.train.trained import Trained


def student_outputs(
    trained: Trained, loader: ReplayLoader, views: int, progress: Callable[[int, int], None]
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch of the loader's first `views` views, and the student's float32 output for it.

    Raises UsageError for a student that does not suit the dataset.
    """
    dataset, device = loader.dataset, loader.device
    network = trained.network.eval().to(device)
    seen = 0
    for number in range(views):
        loader.set_epoch(number)
        for batch in loader:
            with precision_context(device, "fp32"):
                output = checked_forward(
                    f"student {trained.architecture!r}",
                    network,
                    batch.images,
                    dataset.num_classes,
                    output=OUTPUTS[dataset.task],
                    remedy="Give a student of this store's dataset",
                ).float()
            yield batch, output
            seen += len(batch.labels)
            progress(seen, views * len(dataset))


def not_finite(trained: Trained, what: str) -> CheckpointError:
    """The error for a student whose logits, or heatmaps, are no numbers."""
    return CheckpointError(
        f"the student {trained.architecture!r} gives NaN or infinite {what} for these views: "
        "its training diverged, or its preprocessing is another one. Give another checkpoint"
    )
