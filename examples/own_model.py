"""A model of one's own, cut by name.

From this folder:

    splitdeploy cuts own_model:camera_net
    splitdeploy profile own_model:camera_net --device jetson-nano --network lte --out runs/camera

A factory returns a module, or a module with its example inputs (a batch of one). Sequences and
blocks keep their names: the cuts here are called ``stem.1``, ``body.0``, ``body.1`` and ``pool``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions around a skip connection, halving the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps in, feature maps of half the size out."""
        return self.act(self.conv2(self.act(self.conv1(x))) + self.skip(x))


class CameraNet(nn.Module):
    """A small classifier of camera pictures."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(Block(16, 32), Block(32, 64))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures ``[n, 3, h, w]`` in, class scores ``[n, classes]`` out."""
        return self.classifier(self.pool(self.body(self.stem(x))).flatten(1))


def camera_net() -> tuple[nn.Module, Tensor]:
    """The factory: the module, and a picture of the size that the camera gives."""
    return CameraNet(), torch.zeros(1, 3, 96, 128)
