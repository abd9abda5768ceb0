"""Strict stand-ins for TensorRT, one for each version whose names ``tests/data`` tells.

A class has the attributes and methods that its version has and no others; a method takes the
arguments that its version takes. Behind the names is as much behaviour as splitdeploy needs: a
"plan" is the ONNX graph with a header, and an engine runs it in ONNX Runtime, over the memory of
`pycuda_fakes`. Made by hand are the classes that hold the behaviour; the names are TensorRT's.
"""

from __future__ import annotations

import functools
import inspect
import json
import keyword
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from pycuda_fakes import COMPUTE_MS, Machine, fake_pycuda

VERSIONS = ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")
_MAGIC = b"FAKEPLAN"
_DTYPES = {
    onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT8: "INT8", onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64", onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL", onnx.TensorProto.BFLOAT16: "BF16",
}  # fmt: skip
_NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32,
    "INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@functools.cache
def describe(version: str) -> dict[str, Any]:
    """The names that a version has."""
    path = Path(__file__).parent / "data" / f"tensorrt_{version}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def install(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    machine: Machine | None = None,
    without: tuple[str, ...] = (),
) -> Machine:
    """Let ``import tensorrt`` and ``import pycuda.driver`` find the fakes."""
    machine = machine or Machine()
    package, driver = fake_pycuda(machine)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version, machine, without))
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return machine


def uninstall(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let those modules not be found."""
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def fake_tensorrt(version: str, machine: Machine, without: tuple[str, ...] = ()) -> ModuleType:
    """The module of a version; ``without`` names members ("IExecutionContext.x") that it lacks."""
    described = describe(version)
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    severity = _enum("Severity", ["VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"])

    def make(name: str) -> Any:
        """A name is made when it is asked for: there are two hundred of them."""
        if name in described["enums"]:
            made = _enum(name, described["enums"][name])
        elif name in described["classes"]:
            entry = described["classes"][name]
            made = _strict(module, machine, name, entry, _BEHAVIOUR.get(name), without)
        else:
            raise AttributeError(f"module 'tensorrt' {version} has no attribute {name!r}")
        if name in {"ILogger", "Logger"}:
            made.Severity = severity
            for level, member in severity.__members__.items():
                setattr(made, level, member)
        setattr(module, name, made)
        return made

    module.__getattr__ = make  # type: ignore[method-assign]
    if "init_libnvinfer_plugins" in described["functions"]:

        def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
            machine.calls.append(("init_libnvinfer_plugins", namespace))
            return isinstance(logger, module.ILogger)

        module.init_libnvinfer_plugins = init_libnvinfer_plugins  # type: ignore[attr-defined]
    return module


def _enum(name: str, members: list[str]) -> Any:
    """As pybind11 makes them: members compare among themselves, ``int()`` gives the value."""

    class Member:
        def __init__(self, title: str, value: int) -> None:
            self.name, self.value = title, value

        def __int__(self) -> int:
            return self.value

        def __repr__(self) -> str:
            return f"<{name}.{self.name}: {self.value}>"

    held = {title: Member(title, value) for value, title in enumerate(members)}
    return type(name, (), {**held, "__members__": held, "__slots__": ()})


def _signature(names: list[str] | None) -> inspect.Signature | None:
    if names is None:
        return None
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    # Real bindings put arguments with a default before others; Python's own signatures do not.
    defaults = False
    parameters = []
    for name in names:
        defaults = defaults or name.endswith("=")
        default = None if defaults else inspect.Parameter.empty
        title = name.rstrip("=")
        title = f"{title}_" if keyword.iskeyword(title) else title
        parameters.append(inspect.Parameter(title, kind, default=default))
    return inspect.Signature(parameters)


def _strict(
    module: ModuleType,
    machine: Machine,
    name: str,
    entry: dict[str, Any],
    behaviour: type[_Behaviour] | None,
    without: tuple[str, ...],
) -> type:
    """A class with the described members and no others; behind them, a behaviour."""
    open_to_subclasses = name in {"ILogger", "IProgressMonitor"}

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        made = None
        if behaviour is not None:
            made = behaviour(module, machine, *args, **kwargs)
        elif not open_to_subclasses:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")
        object.__setattr__(self, "_do", made)

    space: dict[str, Any] = {"__init__": __init__, "__module__": "tensorrt"}
    if not open_to_subclasses:
        space["__slots__"] = ("__weakref__", "_do")
    for method, names in entry["methods"].items():
        if f"{name}.{method}" not in without:
            space[method] = _method(machine, name, method, names)
    for attribute in entry["attributes"]:
        if f"{name}.{attribute}" not in without:
            space[attribute] = _attribute(machine, name, attribute)
    return type(name, (), space)


def _method(machine: Machine, owner: str, name: str, names: list[str] | None) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        signature = _signature(names)
        if signature is not None:
            signature.bind(*args, **kwargs)
        machine.calls.append((f"{owner}.{name}", *args, *kwargs.values()))
        does = getattr(self._do, name, None)
        if does is None:
            raise NotImplementedError(f"the fake of {owner}.{name} has no behaviour")
        return does(*args, **kwargs)

    method.__name__ = name
    return method


def _attribute(machine: Machine, owner: str, name: str) -> property:
    def get(self: Any) -> Any:
        if not hasattr(self._do, name):
            raise NotImplementedError(f"the fake of {owner}.{name} has no behaviour")
        return getattr(self._do, name)

    def put(self: Any, value: Any) -> None:
        machine.calls.append((f"{owner}.{name}=", value))
        setattr(self._do, name, value)

    return property(get, put)


class _Behaviour:
    """What lies behind a class; the strict class in front decides what of it can be reached."""

    def __init__(self, module: Any, machine: Machine) -> None:
        self.trt, self.machine = module, machine


class _Blob(bytes):
    """IHostMemory: bytes that one can copy out, and no other member than the real one has."""

    @property
    def nbytes(self) -> int:
        return len(self)


class _Builder(_Behaviour):
    def __init__(self, module: Any, machine: Machine, logger: Any) -> None:
        super().__init__(module, machine)
        if not isinstance(logger, module.ILogger) or not hasattr(logger, "_do"):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        self.logger = logger
        self.platform_has_fast_fp16 = self.platform_has_fast_int8 = True

    def create_network(self, flags: int = 0) -> Any:
        return self.trt.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self.trt.IBuilderConfig(self.logger)

    def create_optimization_profile(self) -> Any:
        return self.trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        if self.machine.faults.interrupt:
            signal.raise_signal(signal.SIGINT)
        self._monitor(config._do.progress_monitor)
        fault, error = self.machine.faults.build, self.trt.ILogger.ERROR
        if fault == "raises":
            raise RuntimeError("std::bad_alloc")
        if fault == "oom":
            self.logger.log(error, "1: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda "
                                   "Runtime (out of memory)")  # fmt: skip
            return None
        if fault == "workspace":
            self.logger.log(error, "10: Could not find any implementation for node conv1 due to "
                                   "insufficient workspace. See verbose log.")  # fmt: skip
            return None
        if fault == "none":
            self.logger.log(error, "4: [network.cpp::validate::3062] Error Code 4: Internal Error")
            return None
        return self._plan(network._do, config._do)

    def _plan(self, network: _Network, config: _Config) -> Any:
        infos = {info.name: _dims(info) for info in network.model.graph.input}
        free = [name for name, shape in infos.items() if -1 in shape]
        shapes: dict[str, Any] = {}
        if free and not config.profiles:
            self.logger.log(self.trt.ILogger.ERROR, "dynamic inputs, no optimization profile")
            return None
        if config.profiles:
            shapes = config.profiles[0]._do.shapes
            for name in free:
                low, _, high = shapes[name]
                if any(a != -1 and a != b for a, b in zip(infos[name], high, strict=True)):
                    self.logger.log(self.trt.ILogger.ERROR, f"{name}: profile does not fit")
                    return None
        quantised = any(n.op_type == "QuantizeLinear" for n in network.model.graph.node)
        names = {flag.name for flag in config.flags_set}
        typed = network.strongly_typed
        if typed and names & {"FP16", "INT8"}:
            self.logger.log(self.trt.ILogger.ERROR, "strongly typed networks take no precision")
            return None
        if quantised and not typed and "INT8" not in names:
            self.logger.log(self.trt.ILogger.ERROR, "int8 mode must be set for networks with Q/DQ")
            return None
        if config.cache is None:
            config.cache = self.trt.ITimingCache(b"")
        config.cache._do.data = b"CACHE" + b"tactic;" * len(network.model.graph.node)
        header = json.dumps({
            "version": self.trt.__version__,
            "gpu": self.machine.gpu,
            "flags": sorted(names),
            "strongly_typed": typed,
            "compatible": "VERSION_COMPATIBLE" in names,
            "profile": {name: [list(s) for s in shapes[name]] for name in shapes},
        }).encode()
        return _Blob(
            _MAGIC + len(header).to_bytes(4, "big") + header + network.model.SerializeToString()
        )

    def _monitor(self, monitor: Any) -> None:
        """As TensorRT 10 calls it, from the thread that builds."""
        if monitor is None:
            return
        monitor.phase_start("Building Engine", None, 4)
        monitor.phase_start("Tactic Selection", "Building Engine", 2)
        for step in range(2):
            self.machine.calls.append(("going on", monitor.step_complete("Tactic Selection", step)))
        monitor.phase_finish("Tactic Selection")
        for step in range(4):
            monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Building Engine")


class _Network(_Behaviour):
    def __init__(self, module: Any, machine: Machine, flags: int) -> None:
        super().__init__(module, machine)
        known = module.NetworkDefinitionCreationFlag.__members__
        on = {name for name, flag in known.items() if flags & (1 << int(flag))}
        if flags & ~sum(1 << int(flag) for flag in known.values()):
            raise TypeError("unknown network flag")
        weak = hasattr(module.BuilderFlag, "FP16")
        self.explicit = "EXPLICIT_BATCH" in on or module.__version__[0] != "8"
        self.strongly_typed = "STRONGLY_TYPED" in on or not weak
        self.model = onnx.ModelProto()

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self.model.graph.output)

    def get_input(self, index: int) -> Any:
        return self.trt.ITensor(self.model.graph.input[index])

    def get_output(self, index: int) -> Any:
        return self.trt.ITensor(self.model.graph.output[index])


class _Tensor(_Behaviour):
    def __init__(self, module: Any, machine: Machine, info: Any) -> None:
        super().__init__(module, machine)
        self.name, self.shape = info.name, _dims(info)
        self.dtype = getattr(module.DataType, _DTYPES[info.type.tensor_type.elem_type])


class _Config(_Behaviour):
    def __init__(self, module: Any, machine: Machine, logger: Any) -> None:
        super().__init__(module, machine)
        self.logger, self.flags_set, self.profiles = logger, [], []
        self.cache: Any = None
        self.progress_monitor: Any = None
        self.pools: dict[Any, int] = {}

    def set_flag(self, flag: Any) -> None:
        if flag not in self.trt.BuilderFlag.__members__.values():
            raise TypeError("expected a BuilderFlag")
        self.flags_set.append(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if not isinstance(pool_size, int):
            raise TypeError("expected a size in bytes")
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        fault = self.machine.faults.timing_cache
        if serialized_timing_cache and fault == "raises":
            raise RuntimeError("Timing cache deserialization failed")
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"CACHE"):
            self.logger.log(self.trt.ILogger.ERROR, "Timing cache is corrupt")
            return None
        if serialized_timing_cache and fault == "none":
            return None
        return self.trt.ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._do.data and self.machine.faults.timing_cache == "mismatch":
            return ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class _TimingCache(_Behaviour):
    def __init__(self, module: Any, machine: Machine, data: bytes) -> None:
        super().__init__(module, machine)
        self.data = bytes(data)

    def serialize(self) -> Any:
        return _Blob(self.data)


class _Profile(_Behaviour):
    def __init__(self, module: Any, machine: Machine) -> None:
        super().__init__(module, machine)
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        if any(size < 1 for shape in (min, opt, max) for size in shape):
            raise ValueError("a profile's shapes must be known")
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class _Parser(_Behaviour):
    def __init__(self, module: Any, machine: Machine, network: Any, logger: Any) -> None:
        super().__init__(module, machine)
        if not network._do.explicit:
            raise RuntimeError("the ONNX parser needs a network with an explicit batch")
        self.network, self.logger = network._do, logger

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if self.machine.faults.parser_errors:
            return False
        self.network.model = onnx.load_model_from_string(bytes(model))
        return True

    @property
    def num_errors(self) -> int:
        return len(self.machine.faults.parser_errors)

    def get_error(self, index: int) -> Any:
        return self.trt.ParserError(self.machine.faults.parser_errors[index])


class _ParserError(_Behaviour):
    def __init__(self, module: Any, machine: Machine, error: tuple[int, str, str, str]) -> None:
        super().__init__(module, machine)
        place, name, operator, text = error
        self.node, self.desc = (lambda: place), (lambda: text)
        self.node_name, self.node_operator = (lambda: name), (lambda: operator)


class _Runtime(_Behaviour):
    def __init__(self, module: Any, machine: Machine, logger: Any) -> None:
        super().__init__(module, machine)
        if not isinstance(logger, module.ILogger):
            raise TypeError("expected a logger")
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        plan = bytes(serialized_engine)
        self.machine.calls.append(("deserialised", len(plan)))
        error = self.trt.ILogger.ERROR
        if self.machine.faults.deserialize_none or not plan.startswith(_MAGIC):
            self.logger.log(error, "Error Code 1: Serialization (magic tag does not match)")
            return None
        size = int.from_bytes(plan[8:12], "big")
        header = json.loads(plan[12 : 12 + size])
        if header["compatible"] and not self.engine_host_code_allowed:
            self.logger.log(error, "Engine host code is not allowed; the plan holds a lean runtime")
            return None
        if header["version"] != self.trt.__version__:
            self.logger.log(error, f"Version tag does not match: {header['version']}")
            return None
        return self.trt.ICudaEngine(header, plan[12 + size :])


class _Engine(_Behaviour):
    def __init__(self, module: Any, machine: Machine, header: Any, graph: bytes) -> None:
        super().__init__(module, machine)
        self.profile = header["profile"]
        model = onnx.load_model_from_string(graph)
        # Inputs and outputs need not come in the order of the ONNX graph.
        outputs = [(info, False) for info in reversed(model.graph.output)]
        self.tensors = outputs + [(info, True) for info in reversed(model.graph.input)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.num_io_tensors = self.num_bindings = len(self.tensors)

    def find(self, name: str) -> tuple[Any, bool]:
        return next(entry for entry in self.tensors if entry[0].name == name)

    def get_tensor_name(self, index: int) -> str:
        return str(self.tensors[index][0].name)

    def get_binding_index(self, name: str) -> int:
        return next(i for i, (info, _) in enumerate(self.tensors) if info.name == name)

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.trt.TensorIOMode
        return mode.INPUT if self.find(name)[1] else mode.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return _dims(self.find(name)[0])

    def get_tensor_dtype(self, name: str) -> Any:
        kind = self.find(name)[0].type.tensor_type.elem_type
        return getattr(self.trt.DataType, _DTYPES[kind])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        fixed = _dims(self.find(name)[0])
        return self.profile.get(name, [fixed, fixed, fixed])

    def create_execution_context(self, *_: Any) -> Any:
        return None if self.machine.faults.context_none else self.trt.IExecutionContext(self)


class _Context(_Behaviour):
    def __init__(self, module: Any, machine: Machine, engine: _Engine) -> None:
        super().__init__(module, machine)
        self.engine_, self.shapes = engine, {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Any) -> bool:
        low, _, high = self.engine_.get_tensor_profile_shape(name, 0)
        ends = zip(low, shape, high, strict=True)
        if self.machine.faults.shape_false or any(not a <= s <= b for a, s, b in ends):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        inputs = [info for info, is_input in self.engine_.tensors if is_input]
        return [i.name for i in inputs if -1 in _dims(i) and i.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> Any:
        if name in self.shapes:
            return self.shapes[name]
        info, is_input = self.engine_.find(name)
        if is_input:
            return _dims(info)
        return self._run(zeros=True)[name].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int):
            raise TypeError("expected an address")
        if self.machine.faults.address_false:
            return False
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.machine.faults.execute_false or len(self.addresses) < len(self.engine_.tensors):
            return False
        return self._enqueue(dict(self.addresses), stream_handle)

    def execute_async_v2(self, bindings: list[int], stream_handle: int, _: Any = None) -> bool:
        if self.machine.faults.execute_false:
            return False
        names = [self.engine_.get_tensor_name(i) for i in range(len(bindings))]
        return self._enqueue(dict(zip(names, bindings, strict=True)), stream_handle)

    def _enqueue(self, addresses: dict[str, int], stream_handle: int) -> bool:
        if not self.machine.stack:
            raise AssertionError("execution without a current context")

        def compute() -> None:
            for name, value in self._run(addresses).items():
                self.machine.memory[addresses[name]][: value.nbytes] = value.tobytes()
            self.machine.clock_ms += COMPUTE_MS

        self.machine.streams[stream_handle].queue.append(compute)
        return True

    def _run(self, addresses: dict[str, int] | None = None, zeros: bool = False) -> dict[str, Any]:
        feeds = {}
        for info, is_input in self.engine_.tensors:
            if not is_input:
                continue
            shape = self.shapes.get(info.name, _dims(info))
            dtype = _NUMPY[_DTYPES[info.type.tensor_type.elem_type]]
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            held = bytes(count) if addresses is None else self.machine.memory[addresses[info.name]]
            feeds[info.name] = np.frombuffer(bytes(held[:count]), dtype).reshape(shape)
        names = [info.name for info, is_input in self.engine_.tensors if not is_input]
        return dict(zip(names, self.engine_.session.run(names, feeds), strict=True))


def _dims(info: Any) -> tuple[int, ...]:
    sizes = info.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in sizes)


_BEHAVIOUR: dict[str, type[_Behaviour]] = {
    "Builder": _Builder, "INetworkDefinition": _Network, "ITensor": _Tensor,
    "IBuilderConfig": _Config, "ITimingCache": _TimingCache, "IOptimizationProfile": _Profile,
    "OnnxParser": _Parser, "ParserError": _ParserError, "Runtime": _Runtime,
    "ICudaEngine": _Engine, "IExecutionContext": _Context,
}  # fmt: skip
