"""Networks on graphs: against dense formulas and PyTorch Geometric, symmetries, what they tell."""

import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.nets import graphs, links
from missing_bits.nets.graphs import Graph, Pool, Settings
from missing_bits.nets.links import Links

NETWORKS = ("gcn", "sage", "gat", "gatv2", "gin", "mpnn", "recurrent", "mlp")
NODES, FEATURES, EDGES = 9, 4, 20


def graph(x, receivers, senders, edges=None, graph_of=None):
    count = len(x)
    graph_of = np.zeros(count, np.int32) if graph_of is None else np.asarray(graph_of, np.int32)
    return Graph(
        np.asarray(x, np.float32),
        links.linked(np.asarray(receivers), np.asarray(senders), count, count),
        edges,
        graph_of,
        np.ones(graph_of.max(initial=0) + 1, bool),
    )


def some(seed=0):
    """A random graph with double edges, edges to itself and perhaps nodes without any."""
    draw = np.random.default_rng(seed)
    return graph(
        draw.normal(size=(NODES, FEATURES)),
        draw.integers(0, NODES - 1, EDGES),
        draw.integers(0, NODES, EDGES),
        draw.normal(size=(EDGES, 3)).astype(np.float32),
    )


def padded(of, nodes=3, edges=4):
    """The same graph beside padding, which holds numbers of its own."""

    def more(x, count, fill):
        return np.concatenate([x, np.full((count, *x.shape[1:]), fill, x.dtype)])

    out = len(of.nodes) + nodes
    return Graph(
        more(of.nodes, nodes, 5),
        Links(more(of.links.rows, edges, out), more(of.links.columns, edges, out)),
        None if of.edges is None else more(of.edges, edges, 5),
        more(of.graph_of, nodes, len(of.real) + 1),
        np.append(of.real, False),
    )


def made(network, outputs=3, **changed):
    settings = {"layers": 2, "width": 5, "heads": 2, **changed}
    return Settings(network, **settings).make(outputs)


def apply(of, network, variables, noise=None, training=True):
    found = jax.jit(network.apply, static_argnums=3)(variables, of, noise, training)
    return found[0].nodes[-1]


def begun(network, of, seed=0):
    return jax.jit(network.init)(jax.random.key(seed), of)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_of_nodes_is_nothing_and_padding_changes_nothing(name):
    """Values and gradients, in training, in which batch normalization looks at the batch."""
    of = some()
    network = made(name)
    variables = begun(network, of)
    order = np.random.default_rng(1).permutation(NODES)
    place = np.argsort(order)
    turned = graph(of.nodes[order], place[of.links.rows], place[of.links.columns], of.edges)

    def loss(variables, of):
        y = apply(of, network, variables)[:NODES]
        return jnp.sum(jnp.sin(y)), y

    found = jax.jit(jax.grad(loss, has_aux=True))
    grads, y = found(variables, of)
    _, other = found(variables, turned)
    padded_grads, beside = found(variables, padded(of))
    np.testing.assert_allclose(other, y[order], atol=1e-5)
    np.testing.assert_allclose(beside, y, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), grads.params, padded_grads.params
    )
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads.params)), "a dead parameter"


@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_side_by_side_are_graphs_one_by_one(name):
    """Outside of training, also one without edges and one of a single node."""
    first = some()
    alone = graph(np.ones((1, FEATURES)), [], [], np.zeros((0, 3), np.float32))
    third = some(1)
    parts = (first, alone, third)
    starts = np.cumsum([0, *(len(one.nodes) for one in parts)])
    shifted = zip(parts, starts, strict=False)
    rows, columns = np.concatenate(
        [np.stack([one.links.rows, one.links.columns]) + at for one, at in shifted], axis=1
    )
    whole = graph(
        np.concatenate([one.nodes for one in parts]),
        rows,
        columns,
        np.concatenate([one.edges for one in parts]),
        np.repeat(range(3), [len(one.nodes) for one in parts]),
    )
    network = made(name)
    variables = begun(network, first)
    y = apply(whole, network, variables, training=False)
    apart = [  # of the first and third one program
        apply(one._replace(links=Links(*one.links[:2])), network, variables, training=False)
        for one in parts
    ]
    np.testing.assert_allclose(y, np.concatenate(apart), atol=2e-5)
    assert np.isfinite(y).all()


@pytest.fixture(scope="module")
def theirs():
    return np.load(pathlib.Path(__file__).parent / "graph_reference.npz")


def layer(build, params, state=None):
    """What a layer makes with these parameters, by the names of its own modules."""
    function = hk.transform_with_state(build)
    return jax.jit(function.apply)(params, state or {}, None)[0]


def test_layers_are_pytorch_geometrics(theirs):
    x = theirs["x"]
    of = graph(x, theirs["receivers"], theirs["senders"])
    found = {
        "gcn": layer(
            lambda: graphs.GCN(3, name="l")(of, x),
            {"l/project": {"w": theirs["gcn.lin.weight"].T}, "l": {"b": theirs["gcn.bias"]}},
        ),
        "sage": layer(lambda: graphs.SAGE(3, name="l")(of, x), sage_params(theirs)),
        "gat": layer(
            lambda: graphs.GAT(3, 2, False, name="l")(of, x, 0, None, 0)[0],
            {
                "l/send": {"w": theirs["gat.lin.weight"].T},
                "l": {"u": theirs["gat.att_dst"][0], "v": theirs["gat.att_src"][0]},
            },
        ).reshape(-1, 6)
        + theirs["gat.bias"][None],
        "gatv2": layer(
            lambda: graphs.GAT(3, 2, True, name="l")(of, x, 0, None, 0)[0],
            {
                "l/send": {"w": theirs["gatv2.lin_l.weight"].T},
                "l/~_logits/receive": {"w": theirs["gatv2.lin_r.weight"].T},
                "l": {"u": theirs["gatv2.att"][0]},
            },
        ).reshape(-1, 6)
        + theirs["gatv2.bias"][None],
        "gin": gin(theirs, of),
    }
    for name, y in found.items():
        np.testing.assert_allclose(y, theirs[f"{name}.y"], atol=2e-5, err_msg=name)


def sage_params(theirs):
    return {
        "l/neighbors": {"w": theirs["sage.lin_l.weight"].T},
        "l/own": {"w": theirs["sage.lin_r.weight"].T},
        "l": {"b": theirs["sage.lin_l.bias"]},
    }


def gin(theirs, of):
    """Batch normalization that changes nothing, but for the bias of the first linear map."""
    norm = "l/batch_norm"
    params = {
        "l": {"epsilon": theirs["gin.eps"][0]},
        "l/project": {"w": theirs["gin.nn.0.weight"].T},
        norm: {"scale": np.ones(3, "f"), "offset": theirs["gin.nn.0.bias"]},
        "l/second": {"w": theirs["gin.nn.2.weight"].T, "b": theirs["gin.nn.2.bias"]},
    }
    state = {norm: {"mean": np.zeros(3, "f"), "variance": np.full(3, 1 - 1e-5, "f")}}
    return layer(lambda: graphs.GIN(3, name="l")(of, theirs["x"], False), params, state)


def test_an_edge_that_stands_twice_counts_twice(theirs):
    """As in PyTorch Geometric, for means and for sums."""
    rows = np.append(theirs["receivers"], theirs["receivers"][2])
    columns = np.append(theirs["senders"], theirs["senders"][2])
    of = graph(theirs["x"], rows, columns)
    sage = layer(lambda: graphs.SAGE(3, name="l")(of, theirs["x"]), sage_params(theirs))
    np.testing.assert_allclose(sage, theirs["sage.twice"], atol=2e-5)
    np.testing.assert_allclose(gin(theirs, of), theirs["gin.twice"], atol=2e-5)


def dense(of):
    """How often j sends to i, [N, N]."""
    counts = np.zeros((len(of.nodes),) * 2)
    np.add.at(counts, (of.links.rows, of.links.columns), 1)
    return counts


def test_gcn_is_its_formula():
    """D^-1/2 (A + I) D^-1/2 X W; loops that are there count once."""
    of = some()
    network = made("gcn", layers=1)
    variables = begun(network, of)
    a = dense(of)
    np.fill_diagonal(a, 1)
    root = 1 / np.sqrt(a.sum(axis=1))
    w = variables.params["layer0/project"]["w"]
    wanted = (root[:, None] * a * root[None]) @ of.nodes @ w
    np.testing.assert_allclose(apply(of, network, variables), wanted, atol=1e-5)


def test_gat_is_its_formula():
    of = some()
    network = made("gat", layers=1)
    variables = begun(network, of)
    params = variables.params
    h = of.nodes @ np.asarray(params["layer0/send"]["w"])
    score = (h @ params["layer0"]["u"][0])[:, None] + (h @ params["layer0"]["v"][0])[None]
    score = np.where(score > 0, score, 0.2 * score)
    a = dense(of)
    np.fill_diagonal(a, 1)
    attention = a * np.exp(score)
    attention /= attention.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(apply(of, network, variables), attention @ h, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_mpnn_is_its_formula():
    """One step: z, r = sigmoid(...), a = tanh(W m + r (U h) + b), h = (1 - z) h + z a."""
    of = some()
    network = made("mpnn", layers=1)
    variables = begun(network, of)
    p = jax.tree.map(np.asarray, variables.params)
    h = np.maximum(of.nodes @ p["embed"]["w"] + p["~"]["b"], 0)
    hidden = np.maximum(of.edges @ p["edges"]["w"] + p["edges"]["b"], 0)
    matrices = (hidden @ p["matrices"]["w"] + p["matrices"]["b"]).reshape(-1, 5, 5)
    m = np.zeros((NODES, 5))
    for edge, (i, j) in enumerate(zip(of.links.rows, of.links.columns, strict=True)):
        m[i] += h[j] @ matrices[edge]
    wi, wh, b = (np.split(p["gru"][name], 3, axis=-1) for name in ("w_i", "w_h", "b"))
    z = sigmoid(m @ wi[0] + h @ wh[0] + b[0])
    r = sigmoid(m @ wi[1] + h @ wh[1] + b[1])
    a = np.tanh(m @ wi[2] + (r * h) @ wh[2] + b[2])
    h = (1 - z) * h + z * a
    wanted = h @ p["read"]["w"] + p["read"]["b"]
    np.testing.assert_allclose(apply(of, network, variables), wanted, atol=1e-4)


def parts_of_a_step():
    """Edges, matrices whose columns sum to at most 0.4 over the edges of a sender, and b."""
    of = some().links
    draw = np.random.default_rng(5)
    leaving = np.bincount(of.columns, minlength=NODES)[of.columns]
    transfer = 0.4 / 3 / leaving[:, None, None] * draw.uniform(-1, 1, (EDGES, 3, 3))
    return of, transfer.astype(np.float32), draw.normal(size=(NODES, 3)).astype(np.float32)


def test_the_fixed_point_is_the_solution_of_its_equations():
    of, transfer, forcing = parts_of_a_step()
    matrix = np.zeros((NODES, 3, NODES, 3))
    for edge, (i, j) in enumerate(zip(of.rows, of.columns, strict=True)):
        matrix[i, :, j] += transfer[edge]
    size = 3 * NODES
    wanted = np.linalg.solve(np.eye(size) - matrix.reshape(size, size), forcing.ravel())
    found = graphs.settled(of, transfer, forcing)
    np.testing.assert_allclose(found.ravel(), wanted, atol=1e-5)


def test_the_gradient_of_the_fixed_point_is_that_of_many_steps():
    of, transfer, forcing = parts_of_a_step()

    def through(transfer, forcing, settle):
        if settle:
            x = graphs.settled(of, transfer, forcing)
        else:
            x = forcing
            for _ in range(20):
                x = graphs.transition(of, transfer, forcing, x)
        return jnp.sum(jnp.sin(x))

    by_theorem, by_steps = (
        jax.jit(jax.grad(through, (0, 1)), static_argnums=2)(transfer, forcing, settle)
        for settle in (True, False)
    )
    for found, wanted in zip(by_theorem, by_steps, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_gradient_of_the_fixed_point_has_the_scale_of_what_comes_back():
    """As of a mean over a hundred thousand nodes, whose gradients are below any fixed tolerance."""
    of, transfer, forcing = parts_of_a_step()

    @jax.jit
    @jax.grad
    def gradient(forcing, scale):
        return scale * jnp.sum(jnp.sin(graphs.settled(of, transfer, forcing)))

    wanted = gradient(forcing, 1.0)
    np.testing.assert_allclose(1e6 * gradient(forcing, 1e-6), wanted, rtol=1e-3, atol=1e-5)


def test_the_recurrent_network_reaches_its_fixed_point_by_steps():
    of = some()
    variables = begun(made("recurrent"), of)
    settled, stepped = (
        apply(of, made("recurrent", recurrent_steps=steps, recurrent_contraction=0.3), variables)
        for steps in (0, 14)
    )
    np.testing.assert_allclose(settled, stepped, atol=1e-5)


def ring(lengths):
    """Cycles of so many nodes, all alike, as one graph."""
    senders = np.arange(sum(lengths))
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    receivers = starts + (senders - starts + 1) % np.repeat(lengths, lengths)
    both = np.concatenate([senders, receivers]), np.concatenate([receivers, senders])
    return graph(np.ones((len(senders), 1)), *both)


def summed(of, name, **changed):
    network = made(name, 8, width=16, **changed)
    variables = begun(network, of, 1)
    y = apply(of, network, variables, training=False)
    return np.asarray(jnp.sum(y, axis=0))


def test_gin_tells_what_colors_tell_and_a_mean_does_not():
    """A path of 4 and a star of 4, all nodes alike: degrees 1 2 2 1 and 3 1 1 1."""
    path = graph(np.ones((4, 1)), [0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2])
    star = graph(np.ones((4, 1)), [0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0])
    assert np.abs(summed(path, "gin") - summed(star, "gin")).max() > 1e-2
    np.testing.assert_allclose(summed(path, "sage"), summed(star, "sage"), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_tells_a_cycle_of_six_from_two_triangles(name):
    np.testing.assert_allclose(summed(ring([6]), name), summed(ring([3, 3]), name), atol=1e-4)


def test_sparse_features_are_dense_ones():
    import scipy.sparse

    from missing_bits.data import graphs as data

    of = some()
    kept = np.where(np.abs(of.nodes) > 0.7, of.nodes, 0)
    sparse = data.features(scipy.sparse.csr_matrix(kept))
    for name in ("gcn", "recurrent"):
        network = made(name, layers=1)
        variables = begun(network, of)
        y = apply(of._replace(nodes=sparse), network, variables)
        np.testing.assert_allclose(
            y, apply(of._replace(nodes=kept), network, variables), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("name", ["gcn", "gat", "gin", "mpnn"])
def test_bfloat16_changes_digits_alone(name):
    """Within 5 % of the largest; results and gradients are float32."""
    of = some()
    wide, narrow = (made(name, layers=1, bfloat16=narrow) for narrow in (False, True))
    variables = begun(wide, of)

    def loss(params, network):
        y = network.apply((params, variables.state), of, None, True)[0].nodes[-1]
        return jnp.sum(jnp.sin(y)), y

    found, wanted = (
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables.params, network)
        for network in (narrow, wide)
    )
    y, other = found[1], wanted[1]
    assert 0 < np.abs(y - other).max() < 0.05 * np.abs(other).max()
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_dropout_keeps_the_mean_and_belongs_to_the_key():
    x = jnp.ones((40, 16))
    keys = jax.random.split(jax.random.key(0), 40)
    for some_keys in (keys[:1], keys):
        y = graphs.thinned(x, 0.25, some_keys, 0)
        assert np.unique(y).tolist() == pytest.approx([0, 4 / 3])
        assert float(y.mean()) == pytest.approx(1, abs=0.1)
        assert (y != graphs.thinned(x, 0.25, some_keys, 1)).any()
    np.testing.assert_array_equal(
        graphs.thinned(x, 0.25, keys, 0)[3:5], graphs.thinned(x[3:5], 0.25, keys[3:5], 0)
    )


@pytest.mark.parametrize(
    ("how", "wanted"),
    [("sum", [[3, 6], [0, 0], [5, 5]]), ("mean", [[1.5, 3], [0, 0], [5, 5]]), ("max", [[2, 4], [0, 0], [5, 5]])],
)  # fmt: skip
def test_pooling_by_hand(how, wanted):
    """Nodes (1, 2) and (2, 4); none; (5, 5); and padding (9, 9)."""
    x = jnp.array([[1.0, 2], [2, 4], [5, 5], [9, 9]])
    of = Graph(
        x, Links(np.zeros(0, int), np.zeros(0, int)), None, np.array([0, 0, 2, 3]), np.ones(3)
    )
    assert layer(lambda: Pool(how)(of, x), {}).tolist() == wanted
    gate = {"pool/gate": {"w": np.array([[0.0], [0.5]], "f"), "b": np.zeros(1, "f")}}
    found = layer(lambda: Pool("attention")(of, x), gate)
    share = 1 / (1 + np.exp(-1.0))  # gates 1 and 2
    np.testing.assert_allclose(found, [[1 + share, 2 + 2 * share], [0, 0], [5, 5]], rtol=1e-5)


def test_attention_is_told_and_sums_to_one_with_the_nodes_own():
    of = some()
    network = made("gat")
    variables = begun(network, of)
    attention = network.apply(variables, of, None, False)[0].attention
    assert attention.shape == (EDGES, 1)
    sums = np.bincount(of.links.rows, attention[:, 0], NODES)
    assert (sums < 1).all()
    assert (np.asarray(attention)[of.links.rows == of.links.columns] == 0).all()


def test_settings_are_checked():
    for changed, words in (
        ({"layers": 0}, "--layers is 0"),
        ({"dropout": 0.95}, "--dropout is 0.95"),
        ({"recurrent_contraction": 1.0}, "--recurrent-contraction is 1.0"),
        ({"network": "recurrent", "bfloat16": True}, "--bfloat16 is not for --network=recurrent"),
    ):
        with pytest.raises(UserError, match=words):
            Settings(**changed).check("")
