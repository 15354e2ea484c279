"""First weights as published code draws them: VGG and MobileNetV2 for CIFAR, heads for poses."""

from torch import nn


def draw_by_fan_out(network: nn.Module) -> None:
    """Convolutions from N(0, 2 / (kernel area x channels out)), linear layers from N(0, 0.01^2).

    All biases are zero. The deviation is that of He et al. 2015, equation 14
    (https://arxiv.org/abs/1502.01852); of a depthwise convolution too, though each of its inputs
    reaches one channel only: so the published code has it.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def draw_narrowly(*head: nn.Module) -> None:
    """Convolutions and transposed ones from N(0, 0.001^2), biases zero: Xiao et al. 2018's code.

    The first heatmaps are then nearly blank, as most of a heatmap is.
    """
    for part in head:
        for module in part.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
