"""Fused kernels: exact counts against closed forms, and the fusions that decide them."""

import warnings
from collections import Counter

import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, parser
from torch import nn

from splitdeploy.partitioner.kernels import kernel_groups
from splitdeploy.partitioner.onnx_shapes import graph_shapes, symbolic_size
from splitdeploy.profiles.kernel import KernelGroup


def graph(text: str) -> onnx.ModelProto:
    """A model in ONNX's own notation, with no shapes but those of its ends."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')


def exported(model: nn.Module, size: int = 224) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), (torch.zeros(1, 3, size, size),), dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto


def kinds(groups: tuple[KernelGroup, ...]) -> list[str]:
    return [group.kind for group in groups]


RESIDUAL = """
agraph (float[N, 8, 16, 16] x, float[12, 8, 3, 3] w, float[12] b, float[12, 8, 1, 1] v,
        float[12] scale, float[12] shift, float[12] mean, float[12] var)
    => (float[N, 12, 8, 8] y)
{
    c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)
    n = BatchNormalization(c, scale, shift, mean, var)
    s = Conv<strides = [2, 2]>(x, v)
    sum = Add(n, s)
    y = Relu(sum)
}
"""


WEIGHTS = ("w", "b", "v", "scale", "shift", "mean", "var")


def with_weights(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Turn inputs into weights, which lie outside the model."""
    for info in [info for info in model.graph.input if info.name in names]:
        tensor = model.graph.initializer.add(name=info.name, data_type=TensorProto.FLOAT)
        tensor.dims.extend(size.dim_value for size in info.type.tensor_type.shape.dim)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="elsewhere")
        model.graph.input.remove(info)
    return model


def test_a_residual_block_by_hand() -> None:
    main, side = kernel_groups(with_weights(graph(RESIDUAL), *WEIGHTS))
    assert (main.kind, side.kind) == ("conv", "pointwise")
    assert main.macs == 12 * 8 * 8 * 8 * 9
    assert side.macs == 12 * 8 * 8 * 8
    assert main.input_elements == 8 * 16 * 16
    assert main.output_elements == 12 * 8 * 8
    assert main.weight_elements == 12 * 8 * 9 + 12 + 4 * 12
    # The addition joins the convolution that runs last, and reads the other's result.
    assert side.input_elements == 8 * 16 * 16 + 12 * 8 * 8
    assert side.name == "y"
    assert (main.kernel_size, main.stride, main.reduction) == (9, 4, 72)
    assert (side.kernel_size, side.stride, side.reduction) == (1, 4, 8)


@pytest.mark.parametrize(
    ("groups", "weight", "kind"),
    [(1, (6, 6, 3, 3), "conv"), (1, (6, 6, 1, 1), "pointwise"),
     (6, (6, 1, 3, 3), "depthwise"), (2, (6, 3, 3, 3), "grouped")],
)  # fmt: skip
def test_convolutions_by_kind(groups: int, weight: tuple[int, ...], kind: str) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, pads=[weight[2] // 2] * 4)
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6, 10, 10])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 10, 10])],
            [
                helper.make_tensor(
                    "w", TensorProto.FLOAT, weight, [0.0] * 6 * weight[1] * weight[2] ** 2
                )
            ],
        )
    )
    (found,) = kernel_groups(model)
    assert found.kind == kind
    assert found.macs == 600 * weight[1] * weight[2] ** 2


def test_layer_norm_and_softmax_taken_apart_are_one_kernel_each() -> None:
    groups = kernel_groups(
        graph("""
agraph (float[N, 10, 32] x) => (float[N, 10, 32] y)
<float[1] two = {2.0}, float[1] eps = {1e-5}, int64[1] axis = {-1}>
{
    mean = ReduceMean(x, axis)
    d = Sub(x, mean)
    square = Pow(d, two)
    var = ReduceMean(square, axis)
    safe = Add(var, eps)
    std = Sqrt(safe)
    norm = Div(d, std)
    top = ReduceMax(norm, axis)
    low = Sub(norm, top)
    e = Exp(low)
    total = ReduceSum(e, axis)
    y = Div(e, total)
}
""")
    )
    assert set(kinds(groups)) == {"reduce"}
    assert len(groups) <= 2
    assert groups[-1].output_elements == 320


@pytest.mark.parametrize(
    "body",
    ["s = Sigmoid(c) y = Mul(c, s)", "y = HardSwish(c)",
     "d = Div(c, r) e = Erf(d) p = Add(e, r) q = Mul(c, p) y = Mul(q, r)"],
    ids=["silu", "hard-swish", "gelu"],
)  # fmt: skip
def test_activations_taken_apart_join_their_convolution(body: str) -> None:
    model = graph(f"""
agraph (float[N, 4, 8, 8] x, float[4, 4, 3, 3] w) => (float[N, 4, 8, 8] y)
<float[1] r = {{1.4}}>
{{ c = Conv<pads = [1, 1, 1, 1]>(x, w) {body} }}
""")
    (found,) = kernel_groups(with_weights(model, "w"))
    assert (found.kind, found.output_elements) == ("conv", 256)


def test_squeeze_and_excite_is_no_part_of_the_kernel_that_makes_the_scale() -> None:
    groups = kernel_groups(with_weights(graph("""
agraph (float[N, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[N, 4, 8, 8] y)
{
    p = GlobalAveragePool(x)
    c = Conv(p, w)
    s = Sigmoid(c)
    y = Mul(x, s)
}
"""), "w"))  # fmt: skip
    assert kinds(groups) == ["pool", "pointwise", "elementwise"]
    assert groups[-1].input_elements == 256 + 4


def test_what_costs_nothing_makes_no_kernel() -> None:
    groups = kernel_groups(
        graph("""
agraph (float[N, 6, 1, 1] x) => (float[N, 2, 3] y)
<int64[3] shape = {0, 2, 3}>
{
    t = Transpose<perm = [0, 2, 1, 3]>(x)
    r = Reshape(t, shape)
    y = Identity(r)
}
""")
    )
    assert groups == ()


def test_data_moved_twice_is_moved_once_but_each_part_of_a_split_for_itself() -> None:
    groups = kernel_groups(
        graph("""
agraph (float[1, 2, 3, 4] x) => (float[1, 1, 2, 4] a, float[1, 2, 2, 4] b)
<int64[2] parts = {1, 2}, int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}>
{
    s = Slice(x, zero, three, one)
    t = Transpose<perm = [0, 2, 1, 3]>(s)
    a, b = Split<axis = 1>(t, parts)
}
""")
    )
    assert kinds(groups) == ["copy", "copy"]
    assert groups[1].output_elements == 24


def test_products_of_matrices() -> None:
    groups = kernel_groups(with_weights(graph("""
agraph (float[N, 5, 7] x, float[7, 3] w) => (float[N, 5, 5] y)
{
    a = MatMul(x, w)
    t = Transpose<perm = [0, 2, 1]>(a)
    y = MatMul(a, t)
}
"""), "w"))  # fmt: skip
    assert kinds(groups) == ["dense", "copy", "matmul"]
    assert [group.macs for group in groups] == [5 * 3 * 7, 0, 5 * 5 * 3]


def test_einsum_counts_every_combination_once() -> None:
    (found,) = kernel_groups(
        graph("""
agraph (float[2, 3, 4, 5] q, float[2, 3, 6, 5] k) => (float[2, 3, 4, 6] y)
{ y = Einsum<equation = "...qd,...kd->...qk">(q, k) }
""")
    )
    assert (found.kind, found.macs) == ("matmul", 2 * 3 * 4 * 6 * 5)


def test_shapes_are_inferred_where_the_model_has_none() -> None:
    model = with_weights(graph(RESIDUAL), *WEIGHTS)
    assert not model.graph.value_info
    assert graph_shapes(model).of("sum") == (1, 12, 8, 8)


COMPUTED = """
agraph (float[N, 3, 10, 10] x) => (float[M, 3, 2, 6, 2, 6] y)
<int64[1] front = {0}, int64[2] back = {2, 2}, int64[1] six = {6}, int64[1] two = {2},
 int64[1] last = {3}, int64[1] end = {4}, int64[1] one = {1}>
{
    half = Div(back, two)
    zeros = ConstantOfShape<value = int64[1] {0}>(two)
    pads = Concat<axis = 0>(zeros, half, zeros, half)
    p = Pad(x, pads)
    size = Shape(p)
    width = Slice(size, last, end, front)
    count = Div(width, six)
    batch = Slice(size, front, one, front)
    three = Slice(size, one, two, front)
    shape = Concat<axis = 0>(batch, three, count, six, count, six)
    y = Reshape(p, shape)
}
"""


def test_shapes_that_the_graph_computes_are_followed() -> None:
    model = graph(COMPUTED)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    shapes = graph_shapes(model)
    assert shapes.of("p") == (1, 3, 12, 12)
    assert shapes.of("y") == (1, 3, 2, 6, 2, 6)
    (found,) = kernel_groups(model)
    assert (found.kind, found.output_elements) == ("copy", 3 * 12 * 12)


@pytest.mark.parametrize(
    ("text", "size"),
    [("batch", 1), ("64*s0", 64), ("s0*64 + 3", 67), ("2*(s77//1)", 2), ("", 1), ("x y", 1),
     ("__import__('os')", 1), ("s0//0", 1)],
)  # fmt: skip
def test_symbolic_sizes_for_a_batch_of_one(text: str, size: int) -> None:
    assert symbolic_size(text) == size


TOTALS = {"resnet18": 1.814e9, "vgg16": 15.470e9, "mobilenet_v2": 0.3008e9}
"""Multiply-accumulates that torchvision's weights metadata publish."""


def published_gigamacs(name: str) -> float:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return float(weights.meta["_ops"])


def meta_export(name: str) -> onnx.ModelProto:
    """The graph of a model whose weights are never filled in."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    return exported(model.to_empty(device="cpu"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_totals_agree_with_torchvision(name: str) -> None:
    groups = kernel_groups(meta_export(name))
    total = sum(group.macs for group in groups)
    if name in TOTALS:
        assert total == pytest.approx(TOTALS[name], rel=1e-3)
    # torchvision counts with torch's FlopCounterMode, and rounds to a thousandth of 10^9.
    assert total / 1e9 == pytest.approx(published_gigamacs(name), abs=1e-3)
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)
    if name == "resnet18":
        expected = {"conv": 17, "pointwise": 3, "pool": 1, "reduce": 1, "dense": 1}
        assert Counter(kinds(groups)) == expected


def test_a_transformer_against_its_closed_form() -> None:
    width, inner, heads, blocks, tokens = 32, 64, 2, 2, 4 * 4 + 1
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=blocks, num_heads=heads, hidden_dim=width,
        mlp_dim=inner, num_classes=10,
    )  # fmt: skip
    groups = kernel_groups(exported(model, size=32))
    patches = 16 * width * 3 * 8 * 8
    attention = tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width
    block = attention + 2 * tokens * width * inner
    assert sum(group.macs for group in groups) == patches + blocks * block + width * 10
    counts = Counter(kinds(groups))
    assert counts["matmul"] == 2 * blocks
    assert counts["reduce"] == 3 * blocks + 1, "two layer norms and a softmax, a norm at the end"
    assert counts["elementwise"] == 1, "only the positions join no kernel before them"
