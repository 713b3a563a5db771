"""Networks on graphs: what is learned from, what is kept, batches, links, and simpler methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from missing_bits import options
from missing_bits.data import graph_batches, graph_links, made_graphs
from missing_bits.data.graphs import graph_set
from missing_bits.errors import UserError
from missing_bits.eval import graph_baselines
from missing_bits.supervised import graphs as method
from missing_bits.supervised.graphs import Config, Graphs
from missing_bits.tests.loop.drive import Drive


def configured(**changed):
    config = options.make(Config, **{**method.TINY, **changed})
    options.check(config)
    Graphs.check(config)
    return config


def with_test_labels(data, shift):
    """The same graphs, whose test labels are others."""
    labels = data.labels.copy()
    labels[data.test] = (labels[data.test] + shift) % len(data.classes)
    return data._replace(labels=labels)


@pytest.mark.parametrize(
    ("problem", "changed", "batch"),
    [
        (method.of_nodes, {"layers": 1}, None),
        (method.of_nodes, {"layers": 1, "network": "sage", "fanout": (3,), "batch_size": 2}, True),
        (method.of_graphs, {"data": "cycles", "made_nodes": 20, "layers": 1}, True),
    ],
)
def test_no_test_label_reaches_training(problem, changed, batch):
    """Loss, gradient and what chooses parameters are the same whatever they are."""
    config = configured(**changed)
    data = config.graphs.load()
    batch = batch and method.Chosen(jnp.asarray(data.train[:8]))
    found = []
    for shift in (0, 1):
        asked = problem(config, with_test_labels(data, shift))
        learned = jax.jit(asked.init)(jax.random.key(0))

        @jax.jit
        def all_of(learned, asked=asked):
            loss = jax.grad(
                lambda params: asked.loss(params, learned.statistics, batch, jax.random.key(1))[0]
            )
            return loss(learned.params), asked.validation(learned)

        found.append(all_of(learned))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_what_is_learned_had_the_lowest_loss_on_the_validation_split():
    """Steps are so large that the loss rises again."""
    config = configured(layers=1, optimizer={"learning_rate": 3.0})
    drive = Drive(Graphs, config, [0])
    lowest = np.inf
    for _ in range(6):
        drive.advance(1)
        state = jax.device_get(drive.running.state)
        now = drive.experiment.problem.validation(method.Learned(state.params, state.statistics))
        lowest = min(lowest, float(now))
        assert float(state.best_loss) == pytest.approx(lowest, rel=1e-4)
    best = drive.experiment.problem.validation(drive.learned[0])
    assert float(best) == pytest.approx(lowest, rel=1e-4)
    assert float(now) > lowest


def test_weights_are_decayed_by_hand():
    params = {
        "layer0/project": {"w": jnp.full((2, 2), 2.0)},
        "layer0": {"b": jnp.ones(9)},
        "layer1/project": {"w": jnp.ones((3, 1))},
    }
    assert float(method.squares(params, "first")) == 16
    assert float(method.squares(params, "all")) == 19
    assert float(method.squares({"read": {"w": jnp.ones((1, 5))}}, "first")) == 5


def three():
    """A pair, a triangle and a single node; two features."""
    return graph_set(
        np.arange(12).reshape(6, 2),
        [1, 0, 3, 4, 2, 4, 2, 3],
        [0, 1, 2, 3, 4, 2, 3, 4],
        graph_of=[0, 0, 1, 1, 1, 2],
        labels=[0, 1, 0],
        classes=("a", "b"),
        train=[0],
        validation=[1],
        test=[2],
        where="three",
    )


def test_a_batch_holds_the_graphs_that_were_chosen():
    of = graph_batches.store(three())
    keys = jax.random.split(jax.random.key(0), 3)
    chosen = jnp.array([2, 1, 0])
    packed = graph_batches.pack(of, chosen, graph_batches.Room(8, 9), keys)
    assert packed.kept.tolist() == [True] * 3
    assert packed.graph.graph_of.tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
    assert packed.graph.nodes[:, 0].tolist() == [10, 4, 6, 8, 0, 2, 0, 0]
    pairs = zip(packed.graph.links.columns.tolist(), packed.graph.links.rows.tolist(), strict=True)
    assert sorted(pairs) == [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2), (4, 5), (5, 4), (8, 8)]
    alone = graph_batches.pack(of, chosen[:1], graph_batches.Room(8, 9), keys[:1])
    same = jax.random.key_data(packed.noise.nodes[0]) == jax.random.key_data(alone.noise.nodes[0])
    assert same.all(), "a graph's noise depends on what stands beside it"
    assert len({tuple(key) for key in jax.random.key_data(packed.noise.nodes)[:6].tolist()}) == 6


def test_a_graph_without_room_is_left_out_whole():
    of = graph_batches.store(three())
    keys = jax.random.split(jax.random.key(0), 3)
    packed = graph_batches.pack(of, jnp.array([0, 1, 2]), graph_batches.Room(4, 9), keys)
    assert packed.kept.tolist() == [True, False, False]
    assert packed.graph.graph_of.tolist() == [0, 0, 3, 3]
    assert (packed.graph.links.rows < 4).sum() == 2


def test_room_is_for_the_largest_and_no_more_than_all():
    of = graph_batches.store(three())
    assert graph_batches.room(of, np.arange(3), 1) == (3, 6)
    assert graph_batches.room(of, np.arange(3), 3) == (6, 8)
    assert graph_batches.room(of, np.array([2]), 4) == (4, 1)


def test_a_part_of_the_graphs_is_a_set():
    part = graph_batches.subset(three(), np.array([2, 1]))
    assert part.nodes[:, 0].tolist() == [10, 4, 6, 8]
    assert part.labels.tolist() == [0, 1]
    assert sorted(zip(part.senders.tolist(), part.receivers.tolist(), strict=True)) == [
        (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2),
    ]  # fmt: skip


def test_links_to_be_predicted_carry_no_messages():
    data = made_graphs.blocks(200, 2, 8, 4)
    hidden = graph_links.hide(data, 0)
    known = set(zip(hidden.known.senders.tolist(), hidden.known.receivers.tolist(), strict=True))
    every = set(zip(data.senders.tolist(), data.receivers.tolist(), strict=True))
    for pairs in (hidden.validation, hidden.test):
        assert pairs.linked.mean() == 0.5
        for (first, second), linked in zip(pairs.ends.tolist(), pairs.linked, strict=True):
            assert not {(first, second), (second, first)} & known
            assert ((first, second) in every) == linked
            assert first != second
    assert len(known) + 2 * hidden.test.linked.sum() + 2 * hidden.validation.linked.sum() == len(
        every
    )
    assert len(hidden.train) == len(known) // 2
    drawn = graph_links.draw_absent(hidden.codes, 200, 3_000, jax.random.key(0))
    for (first, second), absent in zip(drawn.ends.tolist(), drawn.absent.tolist(), strict=True):
        assert absent == (first != second and (first, second) not in known)


def test_links_of_too_little_are_refused():
    with pytest.raises(UserError, match="Links are predicted in one graph, and there are 3"):
        graph_links.hide(three(), 0)
    with pytest.raises(UserError, match="too few to hide"):
        graph_links.hide(
            made_graphs.karate()._replace(senders=np.array([0]), receivers=np.array([1])), 0
        )


def test_labels_propagate_by_hand():
    """A path 0 - 1 - 2 - 3 whose ends are told, and node 4 alone, which gets the commonest."""
    senders = np.array([0, 1, 1, 2, 2, 3])
    receivers = np.array([1, 0, 2, 1, 3, 2])
    labels = np.array([1, 1, 0, 0, 1])
    found = graph_baselines.propagated(senders, receivers, labels, np.array([0, 3]), 2)
    assert found.tolist() == [1, 1, 0, 0, 0]
    shared = graph_baselines.common_neighbors(
        senders, receivers, 4, np.array([[0, 2], [0, 3], [1, 3]])
    )
    assert shared.tolist() == [1, 0, 1]


def test_links_are_scored():
    config = configured(links=True, network="gcn")
    resources = Graphs.resources(config)
    drive = Drive(Graphs, config, [0], resources=resources)
    drive.advance(2)
    scores = drive.experiment.evaluation.scores(drive.learned[0], jax.random.key(0), True)
    assert set(scores) == {"eval/auc", "eval/average_precision", "eval/validation_auc"}
    assert set(drive.experiment.evaluation.baselines(None)) == {"baseline/common_neighbors_auc"}


def test_what_edges_hold_is_left_out_where_nothing_takes_it(tmp_path, capsys):
    path = tmp_path / "edges.csv"
    rows = [f"{i},{(i + step) % 20},{step}" for i in range(20) for step in (1, 3)]
    path.write_text("\n".join(["source,target,weight", *rows]))
    labels = tmp_path / "labels.csv"
    labels.write_text("node,label\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    fixed = {"data": f"edges:{path}", "node_labels": str(labels)}
    config = configured(**fixed, links=True, network="mpnn")
    resources = Graphs.resources(config)
    assert "numbers that edges of --data=edges:" in capsys.readouterr().err
    learned = jax.eval_shape(resources.problem.init, jax.random.key(0))
    assert jax.eval_shape(resources.problem.validation, learned).shape == ()
    Graphs.resources(configured(**fixed, network="gcn"))
    assert "--network=mpnn alone takes them" in capsys.readouterr().err
    Graphs.resources(configured(**fixed, network="mpnn"))
    assert not capsys.readouterr().err


def test_logistic_regression_takes_sparse_features_of_many_nodes():
    """Dense, a feature of its own for each of these nodes would take 160 GB."""
    count = 200_000
    features = scipy.sparse.identity(count, np.float32, "csr")
    labels = np.zeros(count, np.int32)
    labels[[0, 3]] = 1
    told = np.array([0, 1, 2])
    found = graph_baselines.linear(features, labels, told, np.array([3, 4]), 2, separately=False)
    assert found == 0.5  # all are taken for the commonest class
    words = scipy.sparse.csr_matrix(np.eye(2, dtype=np.float32)[labels[:6]])
    told = np.array([0, 1, 2, 4])
    found = graph_baselines.linear(words, labels, told, np.array([3, 5]), 2, separately=False)
    assert found == 1


def test_without_labels_there_is_nothing_to_classify(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("source,target\n0,1\n1,2\n")
    with pytest.raises(UserError, match="has no labels of two classes or more; give them"):
        Graphs.resources(configured(data=f"edges:{path}"))


def test_it_learns_blocks_from_few_nodes():
    """Guessing is right for half of the nodes."""
    config = configured(
        data="blocks", made_nodes=200, made_degree=12.0, made_signal=8.0, width=16, updates=80
    )
    drive = Drive(Graphs, config, [0])
    drive.advance(80)
    scores = drive.experiment.evaluation.scores(drive.learned[0], jax.random.key(0), True)
    assert scores["eval/accuracy"] > 0.85
    assert drive.experiment.evaluation.baselines(None)["baseline/majority_accuracy"] < 0.6


def with_features():
    """A block model in which a node's features say a little of its block."""
    data = made_graphs.blocks(200, 2, 12, 8)
    draw = np.random.default_rng(0)
    nodes = draw.normal(size=(200, 4)) + np.where(data.labels, 0.8, -0.8)[:, None] * np.eye(4)[0]
    return data._replace(nodes=nodes.astype(np.float32))


def asked(data, **changed):
    """What is asked of a graph, and the configuration."""
    config = configured(data="blocks", network="sage", dropout=0.0, **changed)
    return method.of_nodes(config, data), config


def test_an_inductive_run_sees_nothing_of_nodes_to_test_on():
    """What they hold and whom they link is changed: arrays, loss and gradient stay as they were."""
    data = with_features()
    nodes = data.nodes.copy()
    nodes[data.test] = 100.0
    more = data.test[:2]
    other = data._replace(
        nodes=nodes,
        senders=np.concatenate([data.senders, more, data.train[:2]]),
        receivers=np.concatenate([data.receivers, more[::-1], more]),
    )
    seen, still = (method.known(one, True, "mine") for one in (data, other))
    assert seen.trained.num_nodes == 200 - len(data.test) - len(data.validation)
    assert seen.validated.num_nodes == 200 - len(data.test)
    assert len(seen.trained.test) == len(seen.trained.validation) == len(seen.validated.test) == 0
    assert [part.digest for part in seen] == [part.digest for part in still]
    np.testing.assert_array_equal(seen.trained.labels[seen.trained.train], data.labels[data.train])
    np.testing.assert_array_equal(seen.trained.nodes[seen.trained.train], data.nodes[data.train])
    found = []
    for one in (data, other):
        problem, config = asked(one, layers=1, fanout=(3,), inductive=True)
        learned = problem.init(jax.random.key(0))
        batch = method.Chosen(jnp.asarray(seen.trained.train[: config.batch_size]))

        @jax.jit
        def all_of(learned, batch, problem=problem):
            loss = jax.grad(lambda params: problem.loss(params, {}, batch, jax.random.key(1))[0])
            return loss(learned.params), problem.validation(learned)

        found.append(all_of(learned, batch))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_it_learns_from_samples_what_holds_for_nodes_it_never_saw():
    data = with_features()
    problem, config = asked(
        data, layers=1, fanout=(5,), inductive=True, updates=60, optimizer={"learning_rate": 0.05}
    )
    drive = Drive(Graphs, config, [0], resources=method.Resources(data, problem), room=60)
    drive.advance(60)
    drive.source.close()
    scores = problem.evaluation.scores(drive.learned[0], jax.random.key(0), True)
    alone = np.mean((data.nodes[data.test, 0] > 0) == data.labels[data.test])
    assert alone < 0.82
    assert scores["eval/accuracy"] > 0.87


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fanout": (2, 2)}, "--fanout 2 2 is for networks that average over neighbors .* "
         "--network=gcn needs all of them"),
        ({"fanout": (2,), "network": "sage"}, "a number of 1 or more for each of --layers=2"),
        ({"fanout": (2, 0), "network": "gat"}, "a number of 1 or more"),
        ({"fanout": (400, 400), "network": "gat"}, "makes trees of 160,401 nodes"),
        ({"inductive": True, "links": True}, "not for --links"),
        ({"inductive": True, "data": "cycles", "made_nodes": 20}, "graphs have classes"),
        ({"inductive": True, "data": "blocks", "made_nodes": 400, "network": "mlp"},
         "no feature that nodes to train on have"),
    ],
)  # fmt: skip
def test_samples_and_inductive_splits_that_make_no_sense_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        Graphs.resources(configured(**changed))


def test_without_links_among_what_is_left_there_is_nothing_to_train_on():
    data = made_graphs.karate()
    with pytest.raises(UserError, match=r"--data=karate --inductive.* has no edges"):
        method.known(data, True, "karate")


def test_distances_are_counted_from_what_is_told():
    from missing_bits.pictures import graphs as pictures

    data = made_graphs.karate()
    away = pictures.distances(data)
    assert away[[0, 33, 1, 16]].tolist() == [0, 0, 1, 2]
    assert len(pictures.near_nodes(data, 5)) == 34
    place = pictures.layout(data.senders, data.receivers, 34)
    linked = np.linalg.norm(place[data.senders] - place[data.receivers], axis=1).mean()
    every = np.linalg.norm(place[:, None] - place[None], axis=2).mean()
    assert linked < 0.7 * every
