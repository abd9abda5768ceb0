"""Small nets with the difficulties of large ones, and a picture-sized one for the command line."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A shared activation that is called twice, in place, and a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv1(x)))
        y = self.conv2(y)
        y += x
        return self.relu(y)


class SmallResNet(nn.Module):
    """Stem, two residual blocks in a sequence, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act(self.stem(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class Chunked(nn.Module):
    """Channels split in two, one half treated, shuffled together by views."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        joined = torch.cat([left, self.inner(right)], dim=1)
        n, c, h, w = joined.shape
        shuffled = joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(shuffled)


class Branches(nn.Module):
    """Three branches of one tensor that meet late: boundaries of several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.join = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a = self.a(x)
        b = self.b(x)
        return self.join(torch.cat([a, b, x.sigmoid()], 1)).mean((2, 3))


class DictToTuple(nn.Module):
    """A dict goes in, a dict with a tuple in it comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 4)
        self.right = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, object]:
        joined = torch.tanh(self.left(batch["left"]) + self.right(batch["right"]))
        scores = self.out(joined)
        return {"scores": scores, "parts": (joined, scores.softmax(-1))}


class Token(nn.Module):
    """A learned token that is expanded to the batch late, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x * 2.0
        x = torch.cat([self.token.expand(n, -1, -1), x], dim=1)
        mixed, _ = self.mix(x, x, x, need_weights=False)
        return self.head((x + mixed)[:, 0])


class Skips(nn.Module):
    """Skip connections from the input and from early on, read far behind."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.d = nn.Conv2d(11, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = torch.tanh(self.b(a))
        c = torch.sigmoid(self.c(b)) * a
        return self.d(torch.cat([a, c, x], 1)).mean((2, 3))


class EarlyResult(nn.Module):
    """Two results, one of which is there long before the other."""

    def __init__(self) -> None:
        super().__init__()
        self.skips = Skips()
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.first(x)
        return self.skips(torch.tanh(early)), early


class Colours(nn.Module):
    """Tells which of three channels is the brightest, and is made, not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1, bias=False)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.fc.weight.copy_(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.act(self.stem(x))), 1))


class EarlyScores(Colours):
    """Scores that are there before the last layers, which make others of them."""

    def __init__(self) -> None:
        super().__init__()
        self.squash = nn.Tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = super().forward(x)
        return scores, self.squash(scores) * 2.0


class DataDependent(nn.Module):
    """No fixed graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x.flip(-1)


def small_resnet() -> tuple[nn.Module, Tensor]:
    """A factory for the command line: 32 × 32 pixels."""
    return SmallResNet(), torch.zeros(1, 3, 32, 32)


def skipping() -> tuple[nn.Module, Tensor]:
    """A factory of a model whose input and first activation are read again at its end."""
    return Skips(), torch.zeros(1, 3, 16, 16)


def branching() -> tuple[nn.Module, Tensor]:
    """A factory of a model with branches side by side."""
    return Branches(), torch.zeros(1, 3, 16, 16)


def colours() -> tuple[nn.Module, Tensor]:
    """A factory of a model that is right about flat colours."""
    return Colours(), torch.zeros(1, 3, 8, 8)


def early_scores() -> tuple[nn.Module, Tensor]:
    """A factory of a model whose first result is there early."""
    return EarlyScores(), torch.zeros(1, 3, 8, 8)


def data_dependent() -> tuple[nn.Module, Tensor]:
    """A factory of a model that cannot be traced."""
    return DataDependent(), torch.zeros(1, 3, 32, 32)


def no_module() -> int:
    """A factory that returns no module."""
    return 3


def failing() -> nn.Module:
    """A factory that fails."""
    raise RuntimeError("no such checkpoint")


MODELS: dict[str, tuple[type[nn.Module], tuple[object, ...]]] = {
    "residual": (SmallResNet, (torch.randn(1, 3, 16, 16),)),
    "chunked": (Chunked, (torch.randn(1, 8, 6, 6),)),
    "branches": (Branches, (torch.randn(1, 3, 8, 8),)),
    "dict": (DictToTuple, ({"left": torch.randn(1, 6), "right": torch.randn(1, 3)},)),
    "token": (Token, (torch.randn(1, 3, 8, 8),)),
}
"""Each with its example inputs, a batch of one."""


def build(name: str) -> tuple[nn.Module, tuple[object, ...]]:
    """A model in eval mode with batch-norm statistics that matter, and its example inputs."""
    torch.manual_seed(0)
    kind, example = MODELS[name]
    model = kind().eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.uniform_(-1, 1)
    return model, example
