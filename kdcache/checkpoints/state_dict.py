"""What a state dict is: named plain tensors with finite values; out of its wrappers."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kdcache.checkpoints.described import Opaque
from kdcache.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("state_dict", "model", "net", "model_state_dict", "network", "weights", "ema")
_MOST_EXPANDED = 2**26  # bytes a file's tensors may claim beyond their storages, by strides of 0
MOST_LISTED = 5  # keys of each kind an error shows; the rest is a count
SAVE_AGAIN = (
    "Save the weights alone, torch.save(network.state_dict(), path), where the file comes from."
)


def unwrapped(origin: str, content: object, *kinds: type) -> object:
    """`content` out of its wrapper; itself where it has none. Raises where two could be meant.

    `kinds`: what a state dict may hold here beside tensors.
    """
    import torch

    if not isinstance(content, Mapping):
        return content
    wrapped = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    kinds = (torch.Tensor, *kinds)
    filled = [key for key in wrapped if any(isinstance(v, kinds) for v in content[key].values())]
    if len(filled) > 1:
        raise CheckpointError(
            f"{origin} holds several state dicts: {', '.join(filled)}. Save the one "
            f"you mean alone, torch.save(content[{filled[0]!r}], path), where the file comes from."
        )
    chosen = filled or wrapped
    return content[chosen[0]] if chosen else content


def checked_state_dict(origin: str, content: object) -> "dict[str, Tensor]":
    """`content` as a checked state dict, out of its wrapper; `origin` opens the errors."""
    content = unwrapped(origin, content)
    if not isinstance(content, Mapping):
        what = "one tensor" if is_plain_tensor(content) else f"of the type {kind_of(content)}"
        raise CheckpointError(f"{origin} is {what}, expected a state dict. {SAVE_AGAIN}")
    if not content:
        raise CheckpointError(f"{origin} is a state dict without any tensor. {SAVE_AGAIN}")
    others = {
        str(key)[:200]: kind_of(value)
        for key, value in content.items()
        if not (isinstance(key, str) and is_plain_tensor(value))
    }
    if others:
        parts = listed(
            others, "not plain tensors", (f"{key} ({kind})" for key, kind in others.items())
        )
        raise CheckpointError(f"{origin} is not a state dict:{parts}\n{SAVE_AGAIN}")
    state_dict = dict(content)
    _refuse_expanded(origin, state_dict)
    refuse_non_finite(origin, state_dict)
    return state_dict


def kind_of(value: object) -> str:
    """The type's name; what a file's pickle names, where that was not made."""
    return value.what if isinstance(value, Opaque) else type(value).__name__


def _refuse_expanded(origin: str, state_dict: "Mapping[str, Tensor]") -> None:
    """Raises for tensors that are small in the file and would be large when copied."""
    claimed = sum(value.numel() * value.element_size() for value in state_dict.values())
    stored = sum(
        {
            value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
            for value in state_dict.values()
        }.values()
    )
    if claimed > 2 * stored + _MOST_EXPANDED:
        raise CheckpointError(
            f"{origin} was not loaded: its tensors would take {claimed:,} bytes, it holds "
            f"{stored:,}. {SAVE_AGAIN}"
        )


def is_plain_tensor(value: object) -> bool:
    """A plain tensor: not sparse, quantised or without data, no small storage in a huge shape."""
    import torch

    if not isinstance(value, torch.Tensor):
        return False
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    claimed = value.numel() * value.element_size()
    return claimed <= max(value.untyped_storage().nbytes(), _MOST_EXPANDED)


def refuse_non_finite(origin: str, state_dict: "Mapping[str, Tensor]") -> None:
    import torch

    bad = [
        key
        for key, value in state_dict.items()
        if (value.is_floating_point() or value.is_complex())
        # float8 types have no isfinite of their own
        and not torch.isfinite(value.float() if value.element_size() == 1 else value).all()
    ]
    if bad:
        raise CheckpointError(
            f"{origin} has NaN or infinite values:{listed(bad, 'not finite', bad)}\n"
            "The training behind it diverged; take an earlier checkpoint."
        )


def listed(keys: Iterable[object], title: str, lines: Iterable[str]) -> str:
    count = len(list(keys))
    if not count:
        return ""
    shown = list(lines)[:MOST_LISTED]
    rest = [f"and {count - MOST_LISTED} more"] if count > MOST_LISTED else []
    noun = "key" if count == 1 else "keys"
    return f"\n  {count} {noun} {title}: " + "; ".join(shown + rest)


def without_module_prefix(state_dict: "dict[str, Tensor]") -> "dict[str, Tensor]":
    if not all(key.startswith("module.") for key in state_dict):
        return state_dict
    return {key.removeprefix("module."): value for key, value in state_dict.items()}
