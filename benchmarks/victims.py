"""The nets that He et al. 2019 and UnSplit attack, trained: LeNet on (Fashion-)MNIST, CIFAR10CNN.

DIR holds, besides what `cifar.py` says, ``mnist/`` and ``fashion-mnist/`` with the four original
idx.gz files each. A victim is trained on a part of the training set; the rest, which it never saw,
is what an attacker has "of the same distribution". Pictures to attack are test images. For
CIFAR-10 victims and attackers see JPEG images, and what is attacked is lossless.

Both papers' nets are the same; the layer after which a head ends is named as in them. Differences
to the papers, all in the training: `EPOCHS` epochs instead of 50 with a one-cycle schedule, and
bfloat16 products, so that a CPU core does it in half an hour.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cifar
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.auxiliary import Auxiliary
from splitdeploy.attacks.pixel_head import PixelHead
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, one_cycle, train

MNIST, FASHION, CIFAR = "mnist", "fashion-mnist", "cifar10"
TRAINED_ON = {MNIST: 50_000, FASHION: 50_000, CIFAR: 40_000}
"""Training images that the victim sees; the others are "of the same distribution"."""

EPOCHS = {MNIST: 10, FASHION: 10, CIFAR: 9}
RATE = {MNIST: 2e-3, FASHION: 2e-3, CIFAR: 1e-3}
QUICK_STEPS = 400
BATCH, SEED = 64, 0


class Normalisation(NamedTuple):
    """What the nets subtract and divide by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


NORMALISATION = {
    MNIST: Normalisation((0.5,), (0.5,)),
    FASHION: Normalisation((0.5,), (0.5,)),
    CIFAR: Normalisation(cifar.MEAN, cifar.STD),
}


@dataclass(frozen=True)
class Data:
    """A data set, divided.

    Attributes:
        victim: What the victim is trained on.
        other: Of the same distribution, never seen by the victim.
        test: To attack, ``[n, c, h, w]`` on [0, 1] with labels.
    """

    victim: Auxiliary
    other: Auxiliary
    test: cifar.Pictures


@cache
def load(data: Path, name: str) -> Data:
    """A data set by name, in a fixed random order."""
    if name == CIFAR:
        training, rest = cifar.jpeg_training(data, 50_000), cifar.jpeg_test(data, 10_000)
        cut = TRAINED_ON[name]
        others = torch.cat([training.images[cut:], rest.images])
        labels = torch.cat([training.labels[cut:], rest.labels])
        victim = Auxiliary(training.images[:cut], "same set", training.labels[:cut])
        other = Auxiliary(others, "same distribution", labels)
        return Data(victim, other, _shuffled(cifar.lossless(data)))
    images, labels = _idx(data / name, "train")
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(images)))
    first, second = order[: TRAINED_ON[name]], order[TRAINED_ON[name] :]
    return Data(
        Auxiliary(images[first], "same set", labels[first]),
        Auxiliary(images[second], "same distribution", labels[second]),
        cifar.Pictures(*_idx(data / name, "t10k")),
    )


def _shuffled(pictures: cifar.Pictures) -> cifar.Pictures:
    """In a fixed random order: the file's is by class."""
    order = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(SEED))
    return cifar.Pictures(pictures.images[order], pictures.labels[order])


def _idx(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def lenet() -> nn.Sequential:
    """Their net for MNIST: 28 by 28 pixels of one channel."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 5),
            ReLU1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 16, 5),
            ReLU2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(256, 120),
            fc1act=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            fc2act=nn.ReLU(),
            fc3=nn.Linear(84, 10),
        )
    )


def cifar_cnn() -> nn.Sequential:
    """Their net for CIFAR-10: six convolutions without batch norm, two fully connected layers."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for block, width in (("1", 64), ("2", 128), ("3", 128)):
        for place in "12":
            layers[f"conv{block}{place}"] = nn.Conv2d(inputs, width, 3, padding=1)
            layers[f"ReLU{block}{place}"] = nn.ReLU()
            inputs = width
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"], layers["fc1act"] = nn.Linear(2048, 512), nn.Sigmoid()
    layers["fc2"] = nn.Linear(512, 10)
    return nn.Sequential(layers)


def untrained(name: str) -> nn.Sequential:
    """The net for a data set, at PyTorch's default initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return cifar_cnn() if name == CIFAR else lenet()


def victim(data: Path, name: str, out: Path, *, quick: bool = False) -> nn.Sequential:
    """The trained net; trained now where it is not, going on where an interrupted run was.

    Args:
        data: DIR.
        name: Of the data set.
        out: Where the weights are kept.
        quick: Whether a few minutes of training must do; such a net has a file of its own.

    Returns:
        The net in eval mode, without gradients for its parameters.
    """
    net = untrained(name).to(memory_format=torch.channels_last)
    held = load(data, name).victim
    norm = NORMALISATION[name]
    steps = QUICK_STEPS if quick else EPOCHS[name] * (len(held) // BATCH)
    # At twice the rate and without AMSGrad the sigmoid of CIFAR10CNN saturates for good.
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE[name], amsgrad=name == CIFAR)
    run = Run(SEED, None, None, out)

    def step(generator: torch.Generator) -> float:
        rows = torch.randint(len(held), (BATCH,), generator=generator)
        pixels = held.pixels(rows)
        if name == CIFAR:
            pixels = _augmented(pixels, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(normalised(pixels, norm).contiguous(memory_format=torch.channels_last))
        assert held.labels is not None
        loss = functional.cross_entropy(logits.float(), held.labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        return float(loss.detach())

    train(
        [Learner("net", net, optimiser, one_cycle)],
        step,
        steps,
        run,
        run.checkpoint(f"victim-{name}{'-quick' * quick}", f"{name} victim, {steps} steps"),
    )
    return net.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def normalised(pixels: Tensor, norm: Normalisation) -> Tensor:
    """What a net takes for pixels on [0, 1]."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in norm)
    return (pixels - mean) / std


def _augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored at random and shifted by up to three pixels, together for the batch."""
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(3)
    across, down = (int(torch.randint(7, (), generator=generator)) for _ in range(2))
    padded = functional.pad(pixels, (3, 3, 3, 3), mode="reflect")
    return padded[:, :, down : down + 32, across : across + 32]


def split(net: nn.Sequential, name: str, cut: str) -> tuple[PixelHead, nn.Sequential]:
    """Head (from pixels on [0, 1]) up to a layer, and the layers behind it."""
    place = [layer for layer, _ in net.named_children()].index(cut) + 1
    head = PixelHead(net[:place], *NORMALISATION[name]).eval()
    return head, net[place:].eval()


@torch.no_grad()
def accuracy(layers: Sequence[nn.Module], pictures: cifar.Pictures) -> float:
    """The share of right answers of modules in a row, the first of which takes pixels."""
    right = 0
    for start in range(0, len(pictures.images), 256):
        x = pictures.images[start : start + 256].float() / 255.0
        for layer in layers:
            x = layer(*x) if isinstance(x, tuple) else layer(x)
        right += int((x.argmax(1) == pictures.labels[start : start + 256]).sum())
    return right / len(pictures.images)
