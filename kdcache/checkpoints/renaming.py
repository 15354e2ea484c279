"""Other repositories' key names for the same network.

Two spellings of a key are one where this table says so, whichever side has which:

    prefixes    module. _orig_mod. model. backbone. network. net. student. teacher., in any order,
                where all keys of a side begin with one: what DataParallel, torch.compile and
                training scripts wrap a network in
    shortcut    layer2.0.shortcut.0 = layer2.0.downsample.0, up to layer3: akamaster's option B and
                kuangliu's CIFAR ResNets have the first; CRD, chenyaofo, torchvision and we the
                second
    linear      linear.weight = classifier.weight = fc.weight, the last layer: akamaster, kuangliu
                and weiaicunzai have the first; CRD, chenyaofo, xternalz and we the last. Where CRD
                has the first two (ShuffleNets, ResNet-50; VGG), so have we
    akamaster   compressible_conv1 = conv1 and the like, in its version for pruning
    poses       backbone.conv1 = conv1 and the like, head.final_layer = keypoint_head.final_layer =
                final_layer, so with deconv_layers, where the side has such a final_layer: mmpose
                has backbone. and head. (keypoint_head. before its version 1), Microsoft's
                SimpleBaseline and HRNet have neither, we have backbone. alone

Names that fit are no proof, so what is not in the table is as deliberate: akamaster's published
ResNets have shortcuts without weights (option A); weiaicunzai's ResNets have four stages from 64
channels, its Wide ResNets biases and no ReLU at the end. These lack or have keys that ours do not,
and are refused. A Wide ResNet's `layer1.0.shortcut.0` is not read as our
`block1.layer.0.convShortcut`: repositories differ in whether the shortcut begins before or behind
the first ReLU, which no key or shape tells. Nor is a `layer4.0.downsample.0` read as our
ResNet-50's `layer4.0.shortcut.0`, which CRD's and kuangliu's have: torchvision's ResNets, and those
made of them for CIFAR, have the first and may pool behind the stem, which no key tells either.

One thing no key tells is read all the same: SimpleBaseline was published in two styles, "pytorch",
which ours is, and "caffe", with a block's stride on its first 1x1 convolution. Take the first.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = (
    *("module.", "_orig_mod.", "model.", "backbone."),
    *("network.", "net.", "student.", "teacher."),
)
_SPELLINGS = (
    (re.compile(r"\bcompressible_(?=conv\d|linear\.)"), ""),
    (re.compile(r"(?<!\blayer4\.\d)\.shortcut\.(?=\d+\.)"), ".downsample."),
    (re.compile(r"^(linear|classifier)\.(?=(weight|bias)$)"), "fc."),
)
_POSE_OUTPUT = re.compile(r"((keypoint_)?head\.)?final_layer\.(weight|bias)$")
_POSE_SPELLINGS = (
    (re.compile(r"^backbone\."), ""),
    (re.compile(r"^(keypoint_)?head\.(?=(deconv_layers|final_layer)\.)"), ""),
)


def renamed(found: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """`found` under the network's names, as far as the table goes.

    Keys that fit as they are stay as they are, all of them; a key without a counterpart keeps the
    file's spelling, so that an error can show it.
    """
    if not is_other(found, expected):
        return dict(found)
    ours = _by_spelling(expected)
    theirs = _by_spelling(found)
    return {
        ours.get(spelling, spelling_of_file): found[spelling_of_file]
        for spelling, spelling_of_file in theirs.items()
    }


def is_other(found: Iterable[str], expected: "Mapping[str, Tensor]") -> bool:
    """Whether the keys differ, `num_batches_tracked` aside: PyTorch before 0.4.1 has none."""
    found = set(found)
    return bool(
        found - expected.keys()
        or any(not key.endswith(".num_batches_tracked") for key in expected.keys() - found)
    )


def _by_spelling(keys: Iterable[str]) -> dict[str, str]:
    """Each key by the spelling that both sides share; by itself where two would have one."""
    keys = list(keys)
    by_spelling: dict[str, str] = {}
    start = common_prefix(keys)
    spellings: tuple[tuple[re.Pattern[str], str], ...] = _SPELLINGS
    if any(_POSE_OUTPUT.match(key, start) for key in keys):
        spellings += _POSE_SPELLINGS
    for key in keys:
        spelling = key[start:]
        for pattern, shared in spellings:
            spelling = pattern.sub(shared, spelling)
        if spelling in by_spelling:
            return {key: key for key in keys}
        by_spelling[spelling] = key
    return by_spelling


def common_prefix(keys: Iterable[str]) -> int:
    """How many characters of known prefixes all keys begin with."""
    keys = list(keys)
    start = 0
    while keys:
        for prefix in PREFIXES:
            if all(
                key.startswith(prefix, start) and len(key) > start + len(prefix) for key in keys
            ):
                start += len(prefix)
                break
        else:
            break
    return start
