"""Convolutional reference models: a residual network, a strided one, and LeNet.

Convolutions start from He's normal initialisation on the fan-out (arXiv:1502.01852), batch
normalization from scale 1 and shift 0, linear layers from torch's default (uniform, 1/√fan-in).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.configs import LeNetConfig, ResNetConfig, StridedConfig


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, projected where the shape changes.

    Maps (batch, in_channels, height, width) to (batch, out_channels, height/stride, width/stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images; three stages of three blocks are ResNet-20.

    Maps (batch, in_channels, image_size, image_size) to logits (batch, classes).
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        first = config.widths[0]
        self.stem = nn.Conv2d(
            config.in_channels, first, 3, config.stem_stride, padding=1, bias=False
        )
        self.norm = nn.BatchNorm2d(first)
        stages, channels = [], first
        for index, width in enumerate(config.widths):
            blocks = []
            for block in range(config.blocks):
                blocks.append(BasicBlock(channels, width, 2 if index and not block else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, config.classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.stages(F.relu(self.norm(self.stem(x)))))
        logits: Tensor = self.head(self.dropout(features.flatten(1)))
        return logits


class StridedCnn(nn.Module):
    """Convolution, batch normalization and ReLU in a row, then one or two linear layers.

    Maps (batch, in_channels, image_size, image_size) to logits (batch, classes).
    """

    def __init__(self, config: StridedConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.in_channels
        for width, kernel, stride, padding in zip(
            config.widths, config.kernels, config.strides, config.paddings, strict=True
        ):
            layers.append(nn.Conv2d(channels, width, kernel, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        inputs = channels * config.feature_sizes()[-1] ** 2
        head: list[nn.Module] = [nn.Dropout(config.dropout)]
        if config.hidden:
            head += [nn.Linear(inputs, config.hidden), nn.ReLU()]
            inputs = config.hidden
        self.head = nn.Sequential(*head, nn.Linear(inputs, config.classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling, as it is usually taught today.

    Maps (batch, in_channels, image_size, image_size) to logits (batch, classes).
    """

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__()
        first, second = config.widths
        self.conv1 = nn.Conv2d(config.in_channels, first, 5, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5)
        side = (config.image_size // 2 - 4) // 2
        self.linear1 = nn.Linear(second * side * side, config.hidden[0])
        self.linear2 = nn.Linear(*config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden[1], config.classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.max_pool2d(F.relu(self.conv1(x)), 2)
        hidden = F.max_pool2d(F.relu(self.conv2(hidden)), 2).flatten(1)
        hidden = F.relu(self.linear2(F.relu(self.linear1(hidden))))
        logits: Tensor = self.head(self.dropout(hidden))
        return logits
