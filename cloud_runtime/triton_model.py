"""A tail for Triton's Python backend: ONNX Runtime on the ``model.onnx`` beside this file.

Copied into a model repository as ``model.py`` and run by Triton, in a Python that has numpy and
onnxruntime but not this package. Triton hands over the requests of one batch together; they run
as one, and where that fails each runs alone, so that one bad request spoils no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What Triton's Python backend looks for, by this name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the graph.

        Args:
            args: Triton's: ``model_repository`` (this model's folder), ``model_version`` and
                ``model_config`` as JSON among them.
        """
        onnxruntime.disable_telemetry_events()
        config = json.loads(args["model_config"])
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._batched = int(config["max_batch_size"]) > 0
        options = onnxruntime.SessionOptions()
        copies = sum(int(group["count"]) for group in config["instance_group"])
        # Each copy has threads of its own: all of them together shall not outnumber its cores.
        options.intra_op_num_threads = max(1, len(os.sched_getaffinity(0)) // copies)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch.

        Args:
            requests: Triton's; it has checked their tensors against the configuration.

        Returns:
            An answer or an error for each, in their order.
        """
        feeds = [self._read(request) for request in requests]
        if self._batched and len(feeds) > 1:
            try:
                return [self._answer(values) for values in self._run_together(feeds)]
            except Exception:  # whatever it was, alone each request gets its own answer or error
                pass
        return [self._run_alone(feed) for feed in feeds]

    def finalize(self) -> None:
        """Release the graph."""
        del self._session

    def _read(self, request: Any) -> dict[str, Any]:
        tensors = {name: triton.get_input_tensor_by_name(request, name) for name in self._inputs}
        return {name: tensor.as_numpy() for name, tensor in tensors.items()}

    def _run_together(self, feeds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        joint = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        values = self._session.run(self._outputs, joint)
        sizes = [len(feed[self._inputs[0]]) for feed in feeds]
        if any(len(value) != sum(sizes) for value in values):
            raise ValueError("an output is not of the batch that went in")
        ends = np.cumsum(sizes)[:-1]
        parts = [np.split(value, ends) for value in values]
        return [[part[place] for part in parts] for place in range(len(feeds))]

    def _run_alone(self, feed: Mapping[str, Any]) -> Any:
        try:
            return self._answer(self._session.run(self._outputs, dict(feed)))
        except Exception as error:  # ONNX Runtime's exceptions share no base but this one
            reason = " ".join(str(error).split())[:300]
            return triton.InferenceResponse([], triton.TritonError(f"the tail failed: {reason}"))

    def _answer(self, values: Sequence[Any]) -> Any:
        tensors = [
            triton.Tensor(name, np.ascontiguousarray(value))
            for name, value in zip(self._outputs, values)  # noqa: B905 - Python 3.8 has no strict
        ]
        return triton.InferenceResponse(tensors)
