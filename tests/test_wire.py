"""Messages of the Open Inference Protocol: what goes in comes out, and nothing else goes in."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.grpc import service_pb2 as pb

from splitdeploy.edge_runtime.session import FREE, Array
from splitdeploy.edge_runtime.wire import (
    DATATYPES,
    payload_bytes,
    read_request,
    read_response,
    write_request,
    write_response,
)
from splitdeploy.profiles.cut import TensorSpec
from splitdeploy.profiles.errors import WireError

X = TensorSpec("x", (FREE, 2))
Y = TensorSpec("y", (FREE,), "int8")


def message(**tensors: Array) -> pb.ModelInferRequest:
    return write_request("m", tensors, request_id="7")


@st.composite
def any_tensor(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, max_side=4))
    finite = {"allow_nan": False, "allow_infinity": False} if "float" in dtype else {}
    return draw(arrays.arrays(dtype, shape, elements=finite or None))


@given(any_tensor(), any_tensor())
def test_what_is_written_is_read(one: Array, two: Array) -> None:
    tensors = {"a": one, "b": two}
    specs = [TensorSpec(name, array.shape, array.dtype.name) for name, array in tensors.items()]
    sent = pb.ModelInferRequest.FromString(write_request("m", tensors).SerializeToString())
    answer = write_response("m", tensors)
    for found in (read_request(sent, specs), read_response(answer, specs)):
        for name, array in tensors.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    assert payload_bytes(tensors) == sum(len(raw) for raw in sent.raw_input_contents)


def test_nvidias_client_writes_the_same() -> None:
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    theirs = grpcclient.InferInput("x", [2, 2], "FP32")
    theirs.set_data_from_numpy(array)
    ours = message(x=array)
    assert theirs._get_tensor().name == ours.inputs[0].name
    assert theirs._get_tensor().datatype == ours.inputs[0].datatype
    assert list(theirs._get_tensor().shape) == list(ours.inputs[0].shape)
    assert theirs._get_content() == ours.raw_input_contents[0]


def test_columns_in_memory_go_row_by_row() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(read_request(message(x=array), [X])["x"], array)


@pytest.mark.parametrize("dtype", sorted(set(DATATYPES) - {"float16"}))
def test_typed_contents_are_read(dtype: str) -> None:
    request = pb.ModelInferRequest(model_name="m")
    entry = request.inputs.add(name="x", datatype=DATATYPES[dtype], shape=[3])
    field = {"f": "fp32_contents", "i": "int_contents", "u": "uint_contents", "b": "bool_contents"}
    wide = {"float64": "fp64_contents", "int64": "int64_contents", "uint64": "uint64_contents"}
    name = wide.get(dtype, field[np.dtype(dtype).kind])
    getattr(entry.contents, name).extend([1, 0, 1])
    found = read_request(request, [TensorSpec("x", (FREE,), dtype)])["x"]
    np.testing.assert_array_equal(found, np.array([1, 0, 1], dtype))


FINE = np.zeros((1, 2), np.float32)


def typed(value: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="y", datatype="INT8", shape=[1]).contents.int_contents.append(value)
    return request


def twice() -> pb.ModelInferRequest:
    request = message(x=FINE)
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def raw(data: list[bytes]) -> pb.ModelInferRequest:
    request = message(x=FINE)
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(data)
    return request


def shaped(shape: list[int]) -> pb.ModelInferRequest:
    request = message(x=FINE)
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)
    return request


@pytest.mark.parametrize(
    ("request_", "specs", "said"),
    [
        (message(z=FINE), [X], "unknown input 'z': expected x"),
        (message(), [X], "input 'x' is missing: expected x"),
        (twice(), [X], "input 'x' is given twice"),
        (message(x=FINE.astype(np.float64)), [X], "expected datatype FP32, got 'FP64'"),
        (message(x=np.zeros((1, 3), np.float32)), [X], r"expected shape \[\?, 2\], got \[1, 3\]"),
        (message(x=np.zeros(2, np.float32)), [X], r"expected shape \[\?, 2\], got \[2\]"),
        (shaped([0, 2]), [X], r"expected shape \[\?, 2\], got \[0, 2\]"),
        (shaped([-1, 2]), [X], r"got \[-1, 2\]"),
        (shaped([1 << 60, 2]), [X], "expected 9223372036854775808 bytes"),
        (raw([b"1234567"]), [X], r"expected 8 bytes for \[1, 2\] of FP32, got 7"),
        (raw([b"", b""]), [X], "expected raw contents of 1 inputs, got 2"),
        (raw([]), [X], "expected 2 values of FP32 in raw contents or fp32_contents, got 0"),
        (message(x=np.array([[np.nan, 0]], np.float32)), [X], "finite numbers, got NaN"),
        (message(x=np.array([[np.inf, 0]], np.float32)), [X], "NaN or infinity"),
        (message(x=FINE, y=np.zeros(2, np.int8)), [X, Y], r"one batch, got batches of \[1, 2\]"),
        (typed(300), [Y], "a value is out of the range of INT8"),
    ],
)  # fmt: skip
def test_refusals(request_: pb.ModelInferRequest, specs: list[TensorSpec], said: str) -> None:
    with pytest.raises(WireError, match=said):
        read_request(request_, specs)


def test_dtypes_that_the_protocol_lacks_are_told() -> None:
    with pytest.raises(WireError, match="expected a dtype among .*, got complex64"):
        message(x=np.zeros(1, np.complex64))


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read_and_nothing_else(data: bytes) -> None:
    request = pb.ModelInferRequest()
    try:
        request.MergeFromString(data)
    except Exception:  # the protocol buffers' own refusal
        return
    with pytest.raises(WireError):
        read_request(request, [X])
