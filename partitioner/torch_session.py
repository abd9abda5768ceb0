"""A session of torch: the same face as an exported graph's, for the model that it was made from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from splitdeploy.edge_runtime.session import Array, Session, StageTimes
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import SessionError


class TorchSession(Session):
    """A torch module with named inputs and outputs.

    Args:
        module: Put into eval mode and onto the device.
        inputs: Its positional arguments, in their order.
        outputs: Its results, in their order; a module may give one tensor or several.
        device: Where it runs: ``cpu``, ``cuda``.

    Raises:
        SessionError: There is no such device.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        device: str = "cpu",
    ) -> None:
        try:
            self._device = torch.device(device)
            self._module = module.eval().to(self._device)
        except (RuntimeError, AssertionError) as error:
            line = str(error).splitlines()[0][:200]
            raise SessionError(f"torch: device {device!r} cannot be used: {line}") from error
        super().__init__("torch", inputs, outputs)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._run_timed(feeds)[0]

    @torch.inference_mode()
    def _run_timed(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], StageTimes]:
        started = time.perf_counter()
        arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs]
        given = [torch.tensor(array, device=self._device) for array in arrays]
        self._wait()
        copied = time.perf_counter()
        try:
            result = self._module(*given)
        except RuntimeError as error:
            line = str(error).splitlines()[0][:200]
            raise SessionError(f"torch: the module failed: {line}") from error
        self._wait()
        computed = time.perf_counter()
        values = (result,) if isinstance(result, Tensor) else tuple(result)
        if len(values) != len(self.outputs):
            raise SessionError(
                f"torch: expected {len(self.outputs)} results, the module gave {len(values)}"
            )
        pairs = zip(self.outputs, values, strict=True)
        found = {spec.name: value.cpu().numpy() for spec, value in pairs}
        ended = time.perf_counter()
        return found, StageTimes(copied - started, computed - copied, ended - computed)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _close(self) -> None:
        self._module = nn.Identity()
