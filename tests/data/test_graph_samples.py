"""Sampled neighborhoods: what is drawn, how often, and what networks make of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.data import graph_samples
from missing_bits.data.graphs import graph_set, whole
from missing_bits.errors import UserError
from missing_bits.nets.graphs import Settings

NODES = 12


def some():
    """A random graph with double edges, edges to itself and, node 11, one without any."""
    draw = np.random.default_rng(0)
    return graph_set(
        draw.normal(size=(NODES, 3)),
        draw.integers(0, NODES - 1, 40),
        draw.integers(0, NODES - 1, 40),
        labels=np.zeros(NODES),
        classes=("a", "b"),
        train=[0],
        validation=[1],
        test=[2],
        where="some",
    )


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_every_subset_is_drawn_alike():
    """The 10 pairs of 5, 4,000 times: chi-square of 9 degrees is above 27.9 once in a thousand."""
    drawn = graph_samples.subset(jnp.full(4_000, 5), 2, jax.random.key(0))
    found, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert found.tolist() == [list(pair) for pair in itertools.combinations(range(5), 2)]
    assert np.sum((counts - 400) ** 2 / 400) < 27.9
    few = graph_samples.subset(jnp.arange(4), 3, jax.random.key(1))
    assert few.tolist() == [[-1, -1, -1], [0, -1, -1], [0, 1, -1], [0, 1, 2]]


def test_below_each_place_stand_neighbors_as_many_as_there_are_or_are_drawn():
    of = graph_samples.neighbors(some(), loops=True)
    roots = jnp.arange(NODES)
    fanout = (3, 2)
    sample = jax.jit(lambda roots, keys: graph_samples.draw(of, roots, fanout, keys))(
        roots, keys(NODES)
    )
    number = np.asarray(sample.number)
    count = graph_samples.places(fanout)
    assert count == 1 + 3 + 6
    assert number[::count].tolist() == list(range(NODES))
    rows, columns = (np.asarray(ends) for ends in sample.graph.links[:2])
    there = rows < NODES * count
    assert (there == (columns < NODES * count)).all()
    assert there.sum() == (number >= 0).sum() - NODES, "a place without the edge above it"
    theirs = [of.senders[of.first[one] : of.first[one + 1]].tolist() for one in range(NODES)]
    for place in np.flatnonzero(number >= 0):
        below = number[columns[there & (rows == place)]].tolist()
        level = place % count
        wanted = 0 if level > 3 else fanout[0 if level == 0 else 1]
        mine = theirs[number[place]]
        assert len(below) == min(wanted, len(mine))
        left = list(mine)
        for one in below:
            left.remove(one)  # no edge is drawn twice
    held = np.where(number[:, None] >= 0, of.nodes[number], 0)
    np.testing.assert_array_equal(sample.graph.nodes, held)


def test_a_tree_and_its_noise_depend_on_their_own_key_alone():
    of = graph_samples.neighbors(some(), loops=True)
    draw = jax.jit(lambda roots, keys: graph_samples.draw(of, roots, (2, 2), keys))
    together = draw(jnp.arange(3), keys(3))
    alone = draw(jnp.arange(1, 2), keys(3)[1:2])
    assert together.number[7:14].tolist() == alone.number.tolist()
    for mine, other, size in zip(together.noise, alone.noise, (7, 6), strict=True):
        told = jax.random.key_data(mine)
        np.testing.assert_array_equal(told[size : 2 * size], jax.random.key_data(other))
        assert len({tuple(key) for key in told.tolist()}) == 3 * size
    other = draw(jnp.arange(3), keys(3, seed=1))
    assert together.number.tolist() != other.number.tolist()


@pytest.mark.parametrize("name", ["sage", "gat"])
def test_with_all_neighbors_a_root_holds_what_it_holds_in_the_whole_graph(name):
    """Gradients too; edges that stand twice and lead from a node to itself are among them."""
    data = some()
    of = graph_samples.neighbors(data, loops=name == "sage")
    most = int(np.diff(of.first).max())
    fanout = (most, most + 1)
    roots = jnp.array([11, 3, 0, 7])
    network = Settings(name, layers=2, width=4, heads=2).make(2)
    graph = whole(data)
    variables = jax.jit(network.init)(jax.random.key(0), graph)

    def sampled(variables):
        sample = graph_samples.draw(of, roots, fanout, keys(4))
        levels, _ = network.apply(variables, sample.graph, None, True)
        y = levels.nodes[-1][:: graph_samples.places(fanout)]
        return jnp.sum(jnp.sin(y)), y

    def full(variables):
        y = network.apply(variables, graph, None, True)[0].nodes[-1][roots]
        return jnp.sum(jnp.sin(y)), y

    found, wanted = (jax.jit(jax.grad(one, has_aux=True))(variables) for one in (sampled, full))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


def test_what_is_too_much_is_refused():
    with pytest.raises(UserError, match="--fanout 400 400 makes trees of 160,401 nodes"):
        graph_samples.places((400, 400))
    large = some()._replace(nodes=np.broadcast_to(np.float32(1), (NODES, 30_000_000)))
    with pytest.raises(UserError, match="12 nodes with 30,000,000 features are more"):
        graph_samples.neighbors(large, loops=True)
