"""Published pose networks written down once more, layer by layer, with the names they have there.

`Plain` makes the weights of a layer when it first meets its name, so that a forward pass says which
names and shapes a checkpoint has and what they mean, without any of the package's code.

    simple_baseline   github.com/microsoft/human-pose-estimation.pytorch, lib/models/pose_resnet.py
    hrnet             github.com/leoxiaobin/deep-high-resolution-net.pytorch, .../pose_hrnet.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BASIC = {18: (2, 2, 2, 2)}
BOTTLENECKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Plain:
    """Layers by name; weights are random, statistics unlike those of a fresh network."""

    def __init__(self, seed: int = 0) -> None:
        self.weights: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, key: str, *shape: int, around: float = 0.0, spread: float = 0.1) -> Tensor:
        if key not in self.weights:
            self.weights[key] = around + spread * torch.randn(shape, generator=self.generator)
        assert self.weights[key].shape == shape
        return self.weights[key]

    def conv(self, x: Tensor, key: str, width: int, kernel: int, stride: int = 1) -> Tensor:
        fan_in = x.shape[1] * kernel**2
        shape = (width, x.shape[1], kernel, kernel)
        weight = self.drawn(f"{key}.weight", *shape, spread=fan_in**-0.5)
        return F.conv2d(x, weight, None, stride, kernel // 2)

    def norm(self, x: Tensor, key: str) -> Tensor:
        width = x.shape[1]
        mean = self.drawn(f"{key}.running_mean", width)
        var = self.drawn(f"{key}.running_var", width, around=1.0).abs()
        self.weights[f"{key}.running_var"] = var
        weight = self.drawn(f"{key}.weight", width, around=1.0)
        bias = self.drawn(f"{key}.bias", width)
        self.weights[f"{key}.num_batches_tracked"] = torch.tensor(7)
        mean, var, weight, bias = (each.view(-1, 1, 1) for each in (mean, var, weight, bias))
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def both(
        self, x: Tensor, keys: tuple[str, str], width: int, kernel: int, stride: int = 1
    ) -> Tensor:
        return self.norm(self.conv(x, keys[0], width, kernel, stride), keys[1])

    def deconv(self, x: Tensor, key: str, width: int) -> Tensor:
        """Kernel 4, stride 2, padding 1: as the sum over its taps, each shifted."""
        weight = self.drawn(
            f"{key}.weight", x.shape[1], width, 4, 4, spread=0.5 / x.shape[1] ** 0.5
        )
        height, breadth = x.shape[-2:]
        y = x.new_zeros(len(x), width, 2 * height + 2, 2 * breadth + 2)
        for row in range(4):
            for column in range(4):
                tap = torch.einsum("bihw,io->bohw", x, weight[:, :, row, column])
                y[:, :, row : row + 2 * height : 2, column : column + 2 * breadth : 2] += tap
        return y[:, :, 1:-1, 1:-1]

    def last(self, x: Tensor, joints: int) -> Tensor:
        weight = self.drawn("final_layer.weight", joints, x.shape[1], 1, 1)
        bias = self.drawn("final_layer.bias", joints)
        return torch.einsum("bihw,oi->bohw", x, weight[:, :, 0, 0]) + bias.view(-1, 1, 1)


def block(net: Plain, x: Tensor, key: str, inner: int, stride: int, expansion: int) -> Tensor:
    width = inner * expansion
    if expansion == 1:
        y = F.relu(net.both(x, (f"{key}.conv1", f"{key}.bn1"), inner, 3, stride))
        y = net.both(y, (f"{key}.conv2", f"{key}.bn2"), inner, 3)
    else:
        y = F.relu(net.both(x, (f"{key}.conv1", f"{key}.bn1"), inner, 1))
        y = F.relu(net.both(y, (f"{key}.conv2", f"{key}.bn2"), inner, 3, stride))
        y = net.both(y, (f"{key}.conv3", f"{key}.bn3"), width, 1)
    if stride != 1 or x.shape[1] != width:
        x = net.both(x, (f"{key}.downsample.0", f"{key}.downsample.1"), width, 1, stride)
    return F.relu(y + x)


def simple_baseline(net: Plain, x: Tensor, depth: int, joints: int) -> Tensor:
    """Heatmaps (B, J, H/4, W/4)."""
    x = F.relu(net.both(x, ("conv1", "bn1"), 64, 7, 2))
    x = F.max_pool2d(x, 3, 2, 1)
    expansion = 1 if depth in BASIC else 4
    for stage, blocks in enumerate((BASIC | BOTTLENECKS)[depth]):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            x = block(net, x, f"layer{stage + 1}.{number}", 64 * 2**stage, stride, expansion)
    for number in (0, 3, 6):
        x = net.deconv(x, f"deconv_layers.{number}", 256)
        x = F.relu(net.norm(x, f"deconv_layers.{number + 1}"))
    return net.last(x, joints)


def hrnet(net: Plain, x: Tensor, width: int, joints: int) -> Tensor:
    """Heatmaps (B, J, H/4, W/4)."""
    x = F.relu(net.both(x, ("conv1", "bn1"), 64, 3, 2))
    x = F.relu(net.both(x, ("conv2", "bn2"), 64, 3, 2))
    for number in range(4):
        x = block(net, x, f"layer1.{number}", 64, 1, 4)
    branches = [x]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        key = f"transition{stage - 1}"
        new = (f"{key}.{stage - 1}.0.0", f"{key}.{stage - 1}.0.1")
        halved = F.relu(net.both(branches[-1], new, width * 2 ** (stage - 1), 3, 2))
        if stage == 2:
            branches = [F.relu(net.both(x, (f"{key}.0.0", f"{key}.0.1"), width, 3))]
        branches.append(halved)
        for module in range(modules):
            key = f"stage{stage}.{module}"
            for number in range(stage):
                for step in range(4):
                    name = f"{key}.branches.{number}.{step}"
                    branches[number] = block(net, branches[number], name, width * 2**number, 1, 1)
            only_first = stage == 4 and module == modules - 1
            branches = [
                F.relu(_fused(net, branches, f"{key}.fuse_layers.{to}", to, width))
                for to in range(1 if only_first else stage)
            ]
    return net.last(branches[0], joints)


def _fused(net: Plain, branches: list[Tensor], key: str, to: int, width: int) -> Tensor:
    """All branches at the resolution of one, summed."""
    total = branches[to]
    for other, x in enumerate(branches):
        name = f"{key}.{other}"
        if other > to:
            x = net.both(x, (f"{name}.0", f"{name}.1"), width * 2**to, 1)
            x = x.repeat_interleave(2 ** (other - to), 2).repeat_interleave(2 ** (other - to), 3)
        for step in range(to - other):
            last = step == to - other - 1
            wide = width * 2**to if last else width * 2**other
            x = net.both(x, (f"{name}.{step}.0", f"{name}.{step}.1"), wide, 3, 2)
            x = x if last else F.relu(x)
        total = total + x if other != to else total
    return total
