"""The optimizers of pretraining against steps computed by hand, and their exclusions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from missing_bits import collectives, optimizers, options
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.errors import UserError
from missing_bits.nets.sequences.stack import Settings
from missing_bits.optimizers import Optimizer

W = np.array([[3.0, 4.0]], np.float32)  # a weight of length 5
V = np.array([2.0], np.float32)  # a bias
G_W = np.array([[0.0, 2.0]], np.float32)
G_V = np.array([0.5], np.float32)


def one_step(config, updates=10, grads=(G_W, G_V)):
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    optimizer = optimizers.make(config, updates)
    moves, _ = optimizer.update({"w": grads[0], "v": grads[1]}, optimizer.init(params), params)
    return moves


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    """Of 100 updates, 10 warm up: 1/11, 2/11, ... 11/11 at update 10; none is wasted.

    Half way down, at 55, it is (1 + 0.2) / 2; at the end 0.2.
    """
    rate = optimizers.schedule(Optimizer(learning_rate=1.0, warmup=0.1, end=0.2), 100)
    np.testing.assert_allclose(
        [rate(i) for i in (0, 1, 10, 55, 100)], [1 / 11, 2 / 11, 1, 0.6, 0.2], atol=1e-6
    )
    flat_start = optimizers.schedule(Optimizer(learning_rate=1.0, warmup=0.0), 100)
    assert flat_start(0) == 1


def test_lars_by_hand():
    """The weight: g + 0.1 w = [0.3, 2.4], of length 2.41868.

    It is multiplied by 0.02 * 5 / 2.41868 and by the rate 0.5.
    The bias has neither decay nor adaptation: 0.5 * 0.25 * g.
    """
    config = Optimizer(
        "lars", learning_rate=0.5, warmup=0.0, weight_decay=0.1, trust=0.02, vector_scale=0.25
    )
    moves = one_step(config)
    length = np.hypot(0.3, 2.4)
    np.testing.assert_allclose(
        moves["w"], -0.5 * 0.02 * 5 / length * np.array([[0.3, 2.4]]), rtol=1e-5
    )
    np.testing.assert_allclose(moves["v"], [-0.5 * 0.25 * 0.5], rtol=1e-5)


def test_lars_momentum_gathers_what_is_adapted():
    """With a constant gradient the second step is 1 + momentum times the first."""
    config = Optimizer(
        "lars", learning_rate=1.0, warmup=0.0, end=1.0, weight_decay=0.0, trust=1.0, momentum=0.8
    )
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    optimizer = optimizers.make(config, 10)
    grads = {"w": G_W, "v": G_V}
    state = optimizer.init(params)
    first, state = optimizer.update(grads, state, params)
    second, _ = optimizer.update(grads, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, 1.8 * a, rtol=1e-5), first, second)


def test_adamw_by_hand():
    """The first step of Adam is the sign of the gradient; decay adds 0.1 w to weights alone."""
    moves = one_step(Optimizer("adamw", learning_rate=0.5, warmup=0.0, weight_decay=0.1))
    np.testing.assert_allclose(moves["w"], -0.5 * np.array([[0.3, 1.4]]), rtol=1e-4)
    np.testing.assert_allclose(moves["v"], [-0.5], rtol=1e-4)


def test_adamw_averages_gradients_and_their_squares():
    """Gradients 1, then 3, with averages 0.5 and 0.75, both corrected for their start at 0.

    Of gradients (0.5 * 0.5 * 1 + 0.5 * 3) / (1 - 0.25) = 7 / 3, of squares
    (0.75 * 0.25 * 1 + 0.25 * 9) / (1 - 0.5625) = 39 / 7: the second step is (7 / 3) / sqrt(39 / 7).
    """
    config = Optimizer(
        learning_rate=1.0, warmup=0.0, end=1.0, weight_decay=0.0, momentum=0.5, squares=0.75
    )
    optimizer = optimizers.make(config, 10)
    params = {"v": jnp.asarray(V)}
    _, state = optimizer.update({"v": jnp.ones(1)}, optimizer.init(params), params)
    second, _ = optimizer.update({"v": jnp.full(1, 3.0)}, state, params)
    np.testing.assert_allclose(second["v"], [-7 / 3 / np.sqrt(39 / 7)], rtol=1e-5)


def test_muon_moves_weights_along_orthogonal_matrices_as_far_as_adam():
    """The polar factor of momentum, times 0.2 times the root of the longer side, roughly.

    The polynomial of five Newton-Schulz steps takes singular values to about 1, between 0.6 and
    1.3. The first momentum is the gradient scaled, which the factor does not tell. A kernel of a
    convolution is the matrix from its window to its outputs.
    """
    rng = np.random.default_rng(0)
    layers = {
        "linear": {"w": (8, 20), "b": (20,)},
        "conv": {"w": (3, 3, 2, 5)},
        "embed": {"embeddings": (9, 4)},
    }
    params = {
        module: {leaf: jnp.ones(s) for leaf, s in leaves.items()}
        for module, leaves in layers.items()
    }
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    optimizer = optimizers.make(
        Optimizer("muon", learning_rate=0.5, warmup=0.0, weight_decay=0.0), 10
    )
    moves, _ = optimizer.update(grads, optimizer.init(params), params)
    for module in ("linear", "conv"):
        move, grad = (
            np.asarray(tree[module]["w"]).reshape(-1, tree[module]["w"].shape[-1])
            for tree in (moves, grads)
        )
        as_long = 0.2 * max(move.shape) ** 0.5
        u, lengths, v = np.linalg.svd(move / (-0.5 * as_long), full_matrices=False)
        assert 0.6 < lengths.min() < lengths.max() < 1.3
        polar = np.linalg.svd(grad, full_matrices=False)
        alike = np.sum((u @ v) * (polar[0] @ polar[2])) / len(lengths)
        assert alike > 0.99
    for module, leaf in (("linear", "b"), ("embed", "embeddings")):  # AdamW's first step
        np.testing.assert_allclose(
            moves[module][leaf], -0.5 * np.sign(grads[module][leaf]), rtol=1e-3
        )


def test_muon_decays_what_adamw_decays():
    config = Optimizer("muon", learning_rate=0.1, warmup=0.0, weight_decay=0.0)
    moves, decayed = (
        {k: np.asarray(v) for k, v in one_step(c).items()}
        for c in (config, dataclasses.replace(config, weight_decay=0.5))
    )
    np.testing.assert_allclose(decayed["w"] - moves["w"], -0.1 * 0.5 * W, rtol=1e-5)
    np.testing.assert_array_equal(decayed["v"], moves["v"])


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_decay_and_adaptation_leave_vectors_alone(name):
    """Whatever decay, trust and the length of a bias are, the bias moves the same."""
    base = Optimizer(name, learning_rate=0.1, warmup=0.0)
    other = dataclasses.replace(base, weight_decay=0.5, trust=0.5)
    one = one_step(base)
    two = one_step(other)
    np.testing.assert_array_equal(one["v"], two["v"])
    assert not np.allclose(one["w"], two["w"])


@pytest.mark.parametrize("updates", [2, 12, 1_000])
@pytest.mark.parametrize("name", ["adamw", "lars", "muon"])
def test_the_first_update_moves_parameters(name, updates):
    moves = one_step(Optimizer(name, warmup=0.5), updates)
    for move in moves.values():
        assert np.abs(move).max() > 0


# What is no weight although it has several axes, and the other way round: by its name in networks.
KINDS = {
    "convnet": {"w": True, "scale": False, "offset": False},
    "resnet18": {"w": True, "scale": False, "offset": False},
    "vit_nano": {"w": True, "b": False, "scale": False, "offset": False, "class_token": False},
    "bert_nano": {
        "w": True,
        "b": False,
        "scale": False,
        "offset": False,
        "embeddings": True,
        "by_distance": False,  # [distances, heads]: biases of attention
    },
}


@pytest.mark.parametrize("network", KINDS)
def test_decay_meets_the_weights_of_every_network_and_nothing_else(network):
    """Without a gradient, AdamW's step is the decay alone."""
    encoder = ImageEncoder(network, (8, 8, 1), (0.5,), (0.2,)) if "bert" not in network else None
    encoder = encoder or TextEncoder(network, 9, 5, "")
    shapes = jax.eval_shape(encoder.init, jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    optimizer = optimizers.make(Optimizer(warmup=0.0, weight_decay=0.5), 10)
    still = jax.tree.map(jnp.zeros_like, params)
    moves, _ = optimizer.update(still, optimizer.init(params), params)
    found = {}
    for leaves in moves.values():
        for name, move in leaves.items():
            found.setdefault(name, set()).add(bool(jnp.any(move != 0)))
    assert found == {name: {decays} for name, decays in KINDS[network].items()}


def test_low_rank_additions_are_weights():
    """One of both factors is called as biases are."""
    params = {"linear": {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 3))}}
    assert optimizers._weights(params) == {"linear": {"a": True, "b": True}}
    assert optimizers._vectors(params) == {"linear": {"a": False, "b": False}}


def test_a_quadratic_is_solved():
    config = Optimizer("adamw", learning_rate=0.1, weight_decay=0.0)
    optimizer = optimizers.make(config, 300)
    params = {"w": jnp.asarray(W), "v": jnp.asarray(V)}
    state = optimizer.init(params)

    def loss(params):
        return sum(jnp.sum(jnp.square(p - 1)) for p in jax.tree.leaves(params)), None

    @jax.jit
    def descend(params, state):
        return optimizers.descend(loss, optimizer, params, state)

    for _ in range(300):
        step = descend(params, state)
        params = step.params
        state = step.opt_state
    assert step.loss < 1e-3
    jax.tree.map(lambda p: np.testing.assert_allclose(p, 1, atol=0.01), params)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 0.0}, "--optimizer.learning-rate is 0.0"),
        ({"warmup": 1.0}, "--optimizer.warmup"),
        ({"weight_decay": -1.0}, "--optimizer.weight-decay"),
        ({"momentum": 1.0}, "--optimizer.momentum"),
        ({"squares": 1.0}, "--optimizer.squares is 1.0"),
        ({"squares": -0.1}, "--optimizer.squares is -0.1"),
        ({"trust": -0.1}, "--optimizer.trust"),
        ({"end": 2.0}, "--optimizer.end"),
    ],
)
def test_settings_that_cannot_train_are_refused_by_name(changed, named):
    with pytest.raises(UserError, match=named):
        Optimizer(**changed).check("optimizer.")


def test_defaults_can_train():
    Optimizer().check("optimizer.")


def test_the_state_of_a_state_space_model_moves_by_a_tenth():
    """Adam's first step has the size of the step, whatever the gradient: 0.5, and 0.05 for it."""
    settings = Optimizer("adamw", learning_rate=0.5, warmup=0.0, end=1.0, weight_decay=0.0)
    optimizer = optimizers.make(settings, 10)
    names = ("w", "state_rate", "state_frequency", "state_step")
    params = {"s4": {name: jnp.ones((2, 3)) for name in names}}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    for name, update in updates["s4"].items():
        np.testing.assert_allclose(update, -0.5 if name == "w" else -0.05, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lars", "muon"])
def test_rates_of_a_state_space_model_do_not_decay(name):
    settings = Optimizer(name, learning_rate=0.5, warmup=0.0, end=1.0, weight_decay=0.1)
    optimizer = optimizers.make(settings, 10)
    names = ("w", "log_rate", "state_rate", "state_frequency")
    params = {"m": {name: jnp.ones((2, 3)) for name in names}}
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(nothing, optimizer.init(params), params)
    for name, update in updates["m"].items():
        assert bool((update < 0).all()) == (name == "w"), name


# What each optimizer's path depends on, of the numbers that rows of one program may differ in.
NUMBERS = ("learning-rate", "end", "weight-decay", "momentum", "squares", "trust", "vector-scale")
IDLE = {"adamw": {"trust"}, "lars": {"squares"}, "muon": {"trust"}}


@pytest.mark.parametrize("name", ["adamw", "lars", "muon"])
def test_numbers_may_differ_between_rows_of_one_program(name):
    """Row 0 has the settings below, each other row another value of one number: two values of each.

    Each row ends where its numbers lead alone, traced (closely) and concrete (float32's 0.999 is
    not quite 0.999, which Adam's correction for its start tells in the fifth digit).
    """
    assert tuple(options.number_names(Optimizer)) == NUMBERS
    config = Optimizer(name, learning_rate=0.1, end=0.5, weight_decay=0.1, trust=0.5)
    rng = np.random.default_rng(0)
    shapes = {"linear": {"w": (3, 4), "b": (4,)}, "embed": {"embeddings": (5, 2)}}
    params = {
        module: {leaf: jnp.asarray(rng.normal(size=s), jnp.float32) for leaf, s in leaves.items()}
        for module, leaves in shapes.items()
    }
    traces = []

    def run(config):
        """Return the parameters after four updates on gradients that change."""
        optimizer = optimizers.make(config, 4)

        def update(carry, time):
            params, state = carry
            grads = jax.tree.map(lambda p: jnp.sin(3 * p + time), params)
            moves, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, moves), state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(update, start, jnp.arange(4.0))[0][0]

    def run_numbers(vector):
        traces.append(1)
        return run(options.with_numbers(config, vector))

    base = options.numbers(config)
    vectors = np.stack([base, *(base * (1 - 0.5 * np.eye(len(base), dtype=np.float32)))])
    together = jax.jit(jax.vmap(run_numbers))
    rows = together(vectors)
    together(0.9 * vectors)
    assert len(traces) == 1, "other numbers are no other program"
    solo = jax.jit(run_numbers)
    for i, vector in enumerate(vectors):
        row = jax.tree.map(lambda p, i=i: p[i], rows)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), row, solo(vector)
        )
        moved = any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b[0])), row, rows)))
        assert moved == (i > 0 and NUMBERS[i - 1] not in IDLE[name]), NUMBERS[i - 1]
    concrete = jax.jit(lambda: run(config))()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-5), rows, concrete
    )


def halves(params, x, weight):
    """Return the mean over rows x [B, 2] of (w'x - weight)^2 / 2, and the sum of x."""
    return jnp.mean(jnp.square(x @ params["w"] - weight)) / 2, jnp.sum(x)


def test_descent_by_hand():
    """At w = (1, 0) rows (1, 0) and (0, 2) miss 1 by 0 and by -1: loss 1 / 4.

    The gradient is the mean of 0 (1, 0) and -1 (0, 2): (0, -1), of length 1; a tenth of it moves w.
    """
    params = {"w": jnp.array([1.0, 0.0])}
    optimizer = optax.sgd(0.1)
    x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    step = optimizers.descend(halves, optimizer, params, optimizer.init(params), x, 1.0)
    np.testing.assert_allclose(step.params["w"], [1.0, 0.1], rtol=1e-6)
    assert (step.loss, step.aux, step.gradient_norm) == (0.25, 3.0, 1.0)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_devices_descend_together():
    """With a row on each: the mean of their means is that of both rows; the total is twice as much.

    What the loss returns beside it stays each device's own.
    """
    params = {"w": jnp.array([1.0, 0.0])}
    optimizer = optax.sgd(0.1)
    x = jnp.array([[[1.0, 0.0]], [[0.0, 2.0]]])

    def step(x, reduce):
        start = optimizer.init(params)
        return optimizers.descend(halves, optimizer, params, start, x, 1.0, reduce=reduce)

    def both(x):
        return step(x, collectives.mean), step(x, collectives.total)

    mean, total = jax.pmap(both, axis_name=collectives.AXIS)(x)
    for device in range(2):
        np.testing.assert_allclose(mean.params["w"][device], [1.0, 0.1], rtol=1e-6)
        np.testing.assert_allclose(total.params["w"][device], [1.0, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(mean.loss, [0.25, 0.25])
    np.testing.assert_array_equal(total.loss, [0.5, 0.5])
    np.testing.assert_array_equal(total.gradient_norm, [2.0, 2.0])
    np.testing.assert_array_equal(mean.aux, [1.0, 2.0])


LAYERS = {  # modules of an encoder and of what stands on it: steps down from the top, of 3 blocks
    "vision_transformer": {"class_token": 4},
    "vision_transformer/embed": {"w": 4, "b": 4},
    "vision_transformer/transformer/block/attention_norm": {"scale": 3, "offset": 3},
    "vision_transformer/transformer/block/qkv": {"w": 3, "b": 3},
    "vision_transformer/transformer/block_1/mix": {"w": 2, "b": 2},
    "vision_transformer/transformer/block_2/narrow": {"w": 1, "b": 1},
    "vision_transformer/transformer/norm": {"scale": 0, "offset": 0},
}


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.75])
def test_lower_layers_make_smaller_steps_by_hand(decay):
    """Of 3 blocks the last has a factor d, the first d^3, and what embeds d^4.

    Norm and classifier move in full.
    """
    steps = {"classifier": {"linear": {"w": 0, "b": 0}}, "encoder": LAYERS}
    updates = jax.tree.map(lambda down: jnp.full((2, 2), 3.0 + down), steps)
    transform = optimizers.layerwise(decay, LAYERS)
    scaled, _ = transform.update(updates, transform.init(updates), updates)
    expected = jax.tree.map(lambda down: np.full((2, 2), (3.0 + down) * decay**down), steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scaled, expected)


def test_the_layers_of_real_encoders_are_counted_from_the_top():
    """Every factor occurs where it should: 6 blocks of vit_micro, 2 of bert_tiny.

    Each has the name that Haiku gives it.
    """
    encoders = {
        "vision_transformer": (ImageEncoder("vit_micro", (8, 8, 1), (0.5,), (0.2,)), 6),
        "text_transformer": (TextEncoder("bert_tiny", 9, 5, ""), 2),
    }
    for root, (encoder, count) in encoders.items():
        params = jax.eval_shape(encoder.init, jax.random.key(0)).params
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
        scaled, _ = optimizers.layerwise(0.5, params).update(ones, optax.EmptyState())
        found = {
            module: {float(leaf.max()) for leaf in leaves.values()}
            for module, leaves in scaled.items()
        }
        blocks = [f"{root}/transformer/block{f'_{i}' if i else ''}/" for i in range(count)]
        for module, factors in found.items():
            if module == f"{root}/transformer/norm":
                assert factors == {1.0}
            elif block := next((b for b in blocks if f"{module}/".startswith(b)), None):
                assert factors == {0.5 ** (count - blocks.index(block))}, module
            else:  # embeddings, the class token
                assert factors == {0.5 ** (count + 1)}, module


def test_the_layers_of_networks_on_sequences_are_counted_too():
    encoder = CausalEncoder(Settings("transformer", 3, 8, 2), 9, 5, "")
    params = jax.eval_shape(encoder.init, jax.random.key(0)).params
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    scaled, _ = optimizers.layerwise(0.5, params).update(ones, optax.EmptyState())

    def factor(module):
        return {float(leaf.max()) for leaf in scaled[module].values()}

    assert factor("embed") == factor("stack/positions") == {0.5**4}
    assert factor("stack/block/attention/qkv") == factor("stack/block/widen") == {0.5**3}
    assert factor("stack/block_2/mlp_norm") == {0.5}
    assert factor("stack/norm") == {1.0}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gradients_that_are_too_long_are_shortened_together(name):
    """Of length 5 with a limit of 2.5: half of each; of length 2 with the same limit: none."""
    config = optimizers.Optimizer(name, warmup=0.0, weight_decay=0.0, clip=2.5)
    params = {"layer": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}}
    long = {"layer": {"w": jnp.array([[3.0, 0.0], [0.0, 0.0]]), "b": jnp.array([0.0, 4.0])}}
    half = jax.tree.map(lambda leaf: leaf / 2, long)
    plain = optimizers.make(dataclasses.replace(config, clip=0.0), 10)
    clipped = optimizers.make(config, 10)
    found, state = clipped.update(long, clipped.init(params), params)
    wanted, plain_state = plain.update(half, plain.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted)
    short = jax.tree.map(lambda leaf: 0.4 * leaf, long)
    found, _ = clipped.update(short, state, params)
    wanted, _ = plain.update(short, plain_state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, wanted)
    with pytest.raises(UserError, match=r"--optimizer\.clip is -1"):
        dataclasses.replace(config, clip=-1.0).check("optimizer.")


def test_an_encoder_without_blocks_has_no_layers_to_scale():
    with pytest.raises(
        UserError, match=r"--layer-decay is 0\.5, but the encoder is no transformer; leave it at 1"
    ):
        optimizers.layerwise(0.5, {"conv_net/conv2_d": {"w": jnp.ones((1, 1))}})
