"""Nodes, sets of them and values on them: the set algebra is that of Python's sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.errors import NodeError
from emotion_circuits.nodes import Node, NodeSet, NodeValues, Residual
from emotion_circuits.types import ModelDims, as_position, as_site

DIMS = ModelDims(n_layers=3, n_heads=2, n_key_value_heads=1, d_model=8, d_head=4, d_mlp=5, d_vocab=9)
NODES = [Node(l, "neuron", i) for l in range(3) for i in range(5)] + [
    Node(l, "head", i) for l in range(3) for i in (0, 1)
]
node_sets = st.sets(st.sampled_from(NODES))
quick = settings(max_examples=60, deadline=None)


@given(st.integers(0, 500), st.sampled_from(["neuron", "head"]), st.integers(0, 99_999))
@quick
def test_names_round_trip(layer: int, kind, index: int) -> None:
    node = Node(layer, kind, index)
    assert Node.parse(str(node)) == node
    assert str(node) == f"L{layer}{'N' if kind == 'neuron' else 'H'}{index}"


@pytest.mark.parametrize(
    "name", ["", "3N10", "L3X1", "L3N", "LN1", "L-1N2", "l3n1", "L3N10 ", "L3N10\n", "L3N1.5", "L٣N1"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(NodeError, match="is no node; write a neuron as 'L21N10234' and a head as 'L18H7'"):
        Node.parse(name)


@given(node_sets, node_sets)
@quick
def test_algebra_is_that_of_python_sets(a: set[Node], b: set[Node]) -> None:
    x, y = NodeSet.of(DIMS, *a), NodeSet.of(DIMS, *map(str, b))
    everything = set(NODES)
    assert set(x | y) == a | b
    assert set(x & y) == a & b
    assert set(x - y) == a - b
    assert set(~x) == everything - a
    assert list(x) == sorted(a)
    assert len(x) == len(a)
    assert (x == y) == (a == b)
    assert hash(x) == hash(NodeSet.of(DIMS, *a))
    assert all((node in x) == (node in a) for node in NODES)
    assert set(x.only("head")) == {n for n in a if n.kind == "head"}
    assert set(x.in_layers([0, 2])) == {n for n in a if n.layer != 1}
    assert x.n_neurons == sum(n.kind == "neuron" for n in a)
    assert NodeSet.of(DIMS, *x.names()) == x


def test_membership_outside_the_model() -> None:
    everything = NodeSet.all(DIMS)
    assert "L2N4" in everything
    assert "L2N5" not in everything
    assert Node(9, "head", 0) not in everything
    assert 7 not in everything
    assert len(everything) == DIMS.n_nodes == 21
    assert len(NodeSet.empty(DIMS)) == 0


@pytest.mark.parametrize("name", ["L3N0", "L0N5", "L2H2"])
def test_nodes_outside_the_model(name: str) -> None:
    message = f"{name} is outside the model: it has layers 0 to 2, neurons 0 to 4 and heads 0 to 1 in each"
    with pytest.raises(NodeError, match=message):
        NodeSet.of(DIMS, "L0N0", name)


def test_sets_of_different_models_do_not_mix() -> None:
    other = NodeSet.all(ModelDims(3, 2, 1, 8, 4, 6, 9))
    for join in (NodeSet.__or__, NodeSet.__and__, NodeSet.__sub__):
        with pytest.raises(NodeError, match=r"different models: 3 layers x \(5 neurons, 2 heads\) and 3 layers x \(6"):
            join(NodeSet.all(DIMS), other)
    assert NodeSet.all(DIMS) != other


@given(node_sets, st.integers(0, 1000))
@quick
def test_random_like_has_as_many_in_each_layer(chosen: set[Node], seed: int) -> None:
    nodes = NodeSet.of(DIMS, *chosen)
    drawn = nodes.random_like(seed)
    for kind in ("neuron", "head"):
        assert torch.equal(drawn.mask(kind).sum(1), nodes.mask(kind).sum(1))
    assert drawn == nodes.random_like(seed)
    assert nodes.random_like(seed, within=nodes) == nodes


def test_random_like_is_uniform_and_may_overlap() -> None:
    nodes = NodeSet.of(DIMS, "L0N0", "L0N1")
    counts = torch.stack([nodes.random_like(seed).neurons[0] for seed in range(300)]).double().sum(0)
    # Each of 5 neurons is in 2 of 5 draws: 120 of 300, standard deviation 8.5.
    assert ((counts - 120).abs() < 38).all()


def test_random_like_within() -> None:
    nodes = NodeSet.of(DIMS, "L0N0", "L0N1", "L1H1")
    pool = NodeSet.of(DIMS, "L0N2", "L0N3", "L0N4", "L1H0")
    for seed in range(20):
        drawn = nodes.random_like(seed, within=pool)
        assert len(drawn & pool) == 3
    with pytest.raises(NodeError, match="cannot draw 2 nodes in layer 0: there are only 1 to draw from"):
        nodes.random_like(within=NodeSet.of(DIMS, "L0N2", "L1H0"))
    with pytest.raises(NodeError, match="there are only 0"):
        nodes.random_like(within=NodeSet.empty(DIMS))


VALUES = NodeValues(
    torch.tensor([[1.0, 5, 5, 0, -9], [5, 0, 0, 0, 0], [2, 0, 0, 0, 0]]), torch.tensor([[5.0, -1], [0, 0], [7, 0]])
)


@pytest.mark.parametrize(
    ("n", "kind", "names"),
    [
        (1, None, ["L2H0"]),
        (2, None, ["L0N1", "L2H0"]),  # of the equal 5s the first neuron
        (4, None, ["L0N1", "L0N2", "L1N0", "L2H0"]),
        (5, None, ["L0H0", "L0N1", "L0N2", "L1N0", "L2H0"]),  # neurons before heads
        (2, "neuron", ["L0N1", "L0N2"]),
        (2, "head", ["L0H0", "L2H0"]),
        (0, None, []),
    ],
)
def test_top_and_its_ties(n: int, kind, names: list[str]) -> None:
    assert VALUES.top(n, kind).names() == names


def test_top_by_magnitude_and_of_more_than_there_are() -> None:
    assert VALUES.top(1, magnitude=True).names() == ["L0N4"]
    assert len(VALUES.top(999)) == 21
    assert VALUES.top(999, "head") == NodeSet.all(DIMS).only("head")


@given(st.lists(st.integers(-3, 3), min_size=21, max_size=21), st.integers(0, 21))
@quick
def test_top_holds_the_largest(numbers: list[int], n: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    held = NodeValues(values[:15].view(3, 5), values[15:].view(3, 2))
    chosen = [float(held.values(node.kind)[node.layer, node.index]) for node in held.top(n)]
    assert sorted(chosen, reverse=True) == sorted(values.tolist(), reverse=True)[:n]


def test_frame_is_sorted_and_complete() -> None:
    table = VALUES.to_frame()
    assert len(table) == 21
    assert table["value"].is_monotonic_decreasing
    assert table["node"][0] == "L2H0"
    assert set(table["node"]) == {str(node) for node in NODES}
    row = table[table["node"] == "L0N4"].iloc[0]
    assert (row["kind"], row["layer"], row["index"], row["value"]) == ("neuron", 0, 4, -9.0)
    assert VALUES.to_frame(top=1)["node"].tolist() == ["L2H0", "L0N1"]


def test_residual_names_layers_of_the_stream() -> None:
    assert Residual.of(DIMS, -1, 0).layers == (0, 2)
    assert Residual.of(DIMS).layers == (0, 1, 2)
    assert Residual.of(DIMS, 1, site="attention").site == "resid_mid"
    with pytest.raises(NodeError, match="layer 3 is outside the model, which has layers 0 to 2"):
        Residual.of(DIMS, 3)
    with pytest.raises(NodeError, match="site 'neuron' is not in the residual stream"):
        Residual.of(DIMS, 1, site="neuron")


def test_vocabulary() -> None:
    names = {
        "z": "head",
        "hook_z": "head",
        "mlp.hook_post": "neuron",
        "hook_resid_post": "resid_post",
        "mlp": "resid_post",
    }
    assert {name: as_site(name) for name in names} == names
    with pytest.raises(ValueError, match="unknown site 'resid'; the sites are resid_pre, resid_mid"):
        as_site("resid")
    with pytest.raises(ValueError, match="unknown position 'end'; the positions are last_prompt, prompt"):
        as_position("end")
