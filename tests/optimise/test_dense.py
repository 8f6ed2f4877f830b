"""Units of dense layers are really gone, and what is left is what a pruning by hand leaves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from tests.optimise.support import ask
from tests.runtimes.packages import graph
from tidemill.optimise.dense import Cut, prune_units

RNG = np.random.default_rng(3)
W1, B1 = RNG.normal(size=(5, 16)).astype(np.float32), RNG.normal(size=16).astype(np.float32)
W2, B2 = RNG.normal(size=(16, 8)).astype(np.float32), RNG.normal(size=8).astype(np.float32)
W3, B3 = RNG.normal(size=(8, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
SCALE = RNG.uniform(0.5, 2, size=8).astype(np.float32)
ROWS = RNG.normal(size=(400, 5)).astype(np.float32)
INPUT, OUTPUT = {"x": ("FP32", ["n", 5])}, {"y": ("FP32", ["n", 3])}
NODES = [
    helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
    helper.make_node("Relu", ["h1"], ["a1"]),
    helper.make_node("Gemm", ["a1", "w2", "b2"], ["h2"], transB=1),
    helper.make_node("Tanh", ["h2"], ["t2"]),
    helper.make_node("Mul", ["t2", "scale"], ["a2"]),
    helper.make_node("MatMul", ["a2", "w3"], ["m3"]),
    helper.make_node("Add", ["m3", "b3"], ["y"]),
]
CONSTANTS = {"w1": W1, "b1": B1, "w2": W2.T.copy(), "b2": B2, "scale": SCALE, "w3": W3, "b3": B3}


def network(nodes: list[NodeProto] = NODES, **change: np.ndarray) -> onnx.ModelProto:
    return onnx.load_from_string(graph(nodes, INPUT, OUTPUT, CONSTANTS | change))


def kept_of(active: np.ndarray, weights: np.ndarray, gone: int) -> tuple[np.ndarray, np.ndarray]:
    """By hand: the units kept, and what the others give to each reader on average."""
    loss = active.std(axis=0) * np.sqrt((weights**2).sum(axis=1))
    out = sorted(loss.argsort()[:gone])
    return np.delete(np.arange(len(loss)), out), active.mean(axis=0)[out] @ weights[out]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_is_what_pruning_by_hand_leaves(ratio: float) -> None:
    pruned, cuts = prune_units(network(), {"x": ROWS}, ratio)
    first, second = int(16 * ratio), int(8 * ratio)
    assert cuts == [Cut("h1", 16, 16 - first), Cut("h2", 8, 8 - second)]

    # The second layer is judged on what the first has become.
    a1 = np.maximum(ROWS @ W1 + B1, 0)
    kept, shift = kept_of(a1.astype(np.float64), W2.astype(np.float64), first)
    b2 = B2 + shift
    a2 = np.tanh(np.maximum(ROWS @ W1[:, kept] + B1[kept], 0) @ W2[kept] + b2) * SCALE
    left, more = kept_of(a2, W3.astype(np.float64), second)
    expected = a2[:, left] @ W3[left] + B3 + more
    np.testing.assert_allclose(ask(pruned, {"x": ROWS})[0], expected, atol=2e-5)

    shapes = {t.name: tuple(t.dims) for t in pruned.graph.initializer}
    assert shapes["w1"] == (5, len(kept))
    assert shapes["w2"] == (len(left), len(kept))
    assert shapes["scale"] == (len(left),)
    assert shapes["w3"] == (len(left), 3)


def test_units_that_never_move_are_lost_without_a_difference() -> None:
    constant, bias = W1.copy(), B1.copy()
    constant[:, [2, 7, 11]], bias[[2, 7, 11]] = 0, [1.5, -1, 0.25]
    nodes = [*NODES[:2], helper.make_node("Gemm", ["a1", "w13", "b3"], ["y"])]
    model = network(nodes, w1=constant, b1=bias, w13=W2[:, :3].copy())
    pruned, cuts = prune_units(model, {"x": ROWS}, 3 / 16)
    assert cuts == [Cut("h1", 16, 13)]
    np.testing.assert_allclose(ask(pruned, {"x": ROWS})[0], ask(model, {"x": ROWS})[0], atol=1e-5)


def test_leaves_the_model_it_was_given_alone() -> None:
    model = network()
    before = model.SerializeToString()
    prune_units(model, {"x": ROWS}, 0.5)
    assert model.SerializeToString() == before


def test_a_reader_without_a_bias_gets_one() -> None:
    nodes = [*NODES[:2], helper.make_node("Gemm", ["a1", "w13"], ["y"])]
    model = onnx.load_from_string(graph(nodes, INPUT, OUTPUT, {"w1": W1, "b1": B1, "w13": W2[:, :3].copy()}))
    pruned, _ = prune_units(model, {"x": ROWS}, 0.5)
    a1 = np.maximum(ROWS @ W1 + B1, 0).astype(np.float64)
    kept, shift = kept_of(a1, W2[:, :3].astype(np.float64), 8)
    np.testing.assert_allclose(ask(pruned, {"x": ROWS})[0], a1[:, kept] @ W2[kept, :3] + shift, atol=2e-5)


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Softmax", ["h1"], ["a1"], axis=1)],
        [helper.make_node("Mul", ["h1", "h1"], ["a1"])],
        [helper.make_node("Gemm", ["x", "wg"], ["g1"]), helper.make_node("Add", ["h1", "g1"], ["a1"])],
        [helper.make_node("Add", ["h1", "twice"], ["a1"]), helper.make_node("Mul", ["twice", "twice"], ["unread"])],
    ],
    ids=["units that are mixed", "units read twice", "units of two layers that meet", "a constant that others read"],
)
def test_a_layer_whose_units_do_not_stand_alone_is_kept(between: list[NodeProto]) -> None:
    nodes = [NODES[0], *between, helper.make_node("Gemm", ["a1", "w13", "b3"], ["y"])]
    more = {"wg": W1[::-1].copy(), "twice": B1, "w13": W2[:, :3].copy()}
    model = network(nodes, **more)
    pruned, cuts = prune_units(model, {"x": ROWS}, 0.5)
    assert cuts == []
    np.testing.assert_array_equal(ask(pruned, {"x": ROWS})[0], ask(model, {"x": ROWS})[0])


def test_a_layer_that_comes_out_of_the_graph_is_kept() -> None:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("a1", onnx.TensorProto.FLOAT, ["n", 16]))
    pruned, cuts = prune_units(model, {"x": ROWS}, 0.5)
    assert [c.layer for c in cuts] == ["h2"]
    np.testing.assert_array_equal(ask(pruned, {"x": ROWS})[1], ask(model, {"x": ROWS})[1])


def test_weights_that_two_layers_share_are_kept() -> None:
    square = RNG.normal(size=(5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w", "b"], ["y"]),
    ]
    output = {"y": ("FP32", ["n", 5])}
    model = onnx.load_from_string(graph(nodes, INPUT, output, {"w": square, "b": np.zeros(5, np.float32)}))
    pruned, cuts = prune_units(model, {"x": ROWS}, 0.5)
    assert cuts == []
    assert pruned.SerializeToString() == model.SerializeToString()
