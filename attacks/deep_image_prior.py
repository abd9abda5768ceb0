"""The deep image prior: the picture is what an untrained network makes of fixed noise, white-box.

    θ* = argmin_θ  ‖f(g_θ(ζ)) − z‖²,    x* = g_θ*(ζ)

A convolutional decoder g finds natural pictures before it finds noise (Ulyanov, Vedaldi and
Lempitsky 2018), so that its weights are a prior without any data. Noise on ζ that fades keeps it
from settling early, as in the "LM" baseline of Li et al. (GLASS, NeurIPS 2023). Every picture has
a decoder of its own; as convolutions in groups they train side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitdeploy.attacks.base import Attack
from splitdeploy.attacks.objective import FeatureDistance
from splitdeploy.attacks.steps import Plateau, Run
from splitdeploy.attacks.target import TargetView
from splitdeploy.attacks.threat import WHITE_BOX
from splitdeploy.profiles.errors import AttackError

_COARSEST = 4
"""Pixels of a side where a decoder begins, at least."""


class DeepImagePrior(Attack):
    """Adam on the weights of one untrained decoder a picture.

    Args:
        steps: Of Adam.
        learning_rate: Its highest; it falls as a cosine.
        width: Channels of the decoder at every resolution.
        doublings: Resolutions that it goes through, at most.
        input_noise: Standard deviation of the noise on the decoder's input at first, beside that
            input's own of 1; it is quartered after each quarter of the steps, and 0 in the last.
    """

    name = "deep-image-prior"
    threat = WHITE_BOX
    cost = "up to 1500 passes through the head and a decoder a picture; minutes without a GPU"
    paper = "Ulyanov, Vedaldi, Lempitsky: Deep Image Prior, CVPR 2018"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {},
        "thorough": {"steps": 5000, "width": 64},
    }

    def __init__(
        self,
        steps: int = 1500,
        learning_rate: float = 1e-2,
        width: int = 32,
        doublings: int = 4,
        input_noise: float = 0.3,
    ) -> None:
        if min(steps, width) < 1 or learning_rate <= 0 or doublings < 0 or input_noise < 0:
            raise AttackError(
                "expected at least 1 step and channel, a positive learning rate and no negative "
                f"doublings or noise, got {steps}, {width}, {learning_rate}, {doublings} and "
                f"{input_noise}"
            )
        self.steps = steps
        self.learning_rate = learning_rate
        self.width = width
        self.doublings = doublings
        self.input_noise = input_noise

    def _run(self, target: TargetView, run: Run) -> Tensor:
        distance = FeatureDistance.relative(target)
        decoder = self._decoder(target, run)
        optimiser = torch.optim.Adam(decoder.parameters(), lr=self.learning_rate)
        efforts: list[float] = []
        low, high = target.bounds
        for step in range(self.steps):
            share = step / self.steps
            effort = 0.5 * (1.0 + math.cos(math.pi * share))
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * effort
            quarter = int(4 * share)
            noise = 0.0 if quarter == 3 else self.input_noise / 4**quarter
            pixels = low + (high - low) * decoder(noise, run.generator)
            loss = distance(pixels).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            efforts.append(effort)
            if not run.step(float(loss.detach()) / target.images, pixels, (step + 1) / self.steps):
                break
        run.converged = Plateau().reached(run.losses, efforts[: len(run.losses)])
        last = run.last_finite
        return pixels.detach() if last is None else last

    def _decoder(self, target: TargetView, run: Run) -> Decoders:
        with torch.random.fork_rng(devices=[]):
            seed = torch.randint(1 << 31, (), generator=run.generator, device="cpu")
            torch.manual_seed(int(seed))
            decoder = Decoders(target.images, target.image_shape, self.width, self.doublings)
        return decoder.to(target.device)


class Decoders(nn.Module):
    """Independent decoders side by side, each with an input of its own.

    Args:
        images: How many.
        image_shape: ``(c, h, w)`` of what each gives.
        width: Channels at every resolution.
        doublings: Resolutions that they go through, at most.
    """

    noise: Tensor

    def __init__(
        self, images: int, image_shape: tuple[int, int, int], width: int, doublings: int
    ) -> None:
        super().__init__()
        channels, height, width_pixels = image_shape
        self._images = images
        self._sizes = [(height, width_pixels)]
        while len(self._sizes) <= doublings and min(self._sizes[0]) >= 2 * _COARSEST:
            self._sizes.insert(0, (-(-self._sizes[0][0] // 2), -(-self._sizes[0][1] // 2)))
        self.register_buffer("noise", torch.randn(1, images * width, *self._sizes[0], device="cpu"))
        with torch.device("cpu"):
            self.convolutions = nn.ModuleList(
                nn.Conv2d(images * width, images * width, 3, padding=1, groups=images)
                for _ in range(2 * len(self._sizes))
            )
            self.norms = nn.ModuleList(
                nn.GroupNorm(images * width, images * width) for _ in self.convolutions
            )
            self.exit = nn.Conv2d(images * width, images * channels, 1, groups=images)

    def forward(self, noise: float, generator: torch.Generator) -> Tensor:
        """Pictures ``[n, c, h, w]`` on [0, 1].

        Args:
            noise: Standard deviation of what is added to the input.
            generator: Of that noise, on the CPU.

        Returns:
            One picture a decoder.
        """
        x = self.noise
        if noise:
            drawn = torch.randn(x.shape, generator=generator, device="cpu")
            x = x + noise * drawn.to(x)
        for place, size in enumerate(self._sizes):
            if place:
                x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            for layer in (2 * place, 2 * place + 1):
                x = functional.leaky_relu(self.norms[layer](self.convolutions[layer](x)), 0.2)
        pixels: Tensor = torch.sigmoid(self.exit(x))
        return pixels.view(self._images, -1, *pixels.shape[2:])
