"""Every network: whole sequences = single steps = parts of sequences, whatever is recurrent in it.

Resets start everything anew; no output depends on what comes later.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.nets.sequences.stack import Settings
from missing_bits.tests.nets.sequences.made import NAMES, WIDTH, by_steps, close, made, sequence

VARIANTS = {
    **{name: {"name": name} for name in NAMES},
    "gru, Cho's": {"name": "gru", "gru": "cho"},
    "qrnn, ifo of three": {"name": "qrnn", "qrnn_pooling": "ifo", "qrnn_window": 3},
}
AFFINE = ("qrnn", "s4", "mamba")
LENGTH = 22
HALF = 11


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
def it(request):
    """A network, with parameters."""
    return made(**request.param)


def test_steps_are_the_whole(it):
    """And the last state of one form is that of the other."""
    x, reset = sequence(LENGTH)
    y, last = it.apply(it.params, x, reset)
    stepped, state = by_steps(it, x, reset, it.network.initial(2))
    close(y, stepped)
    after, _ = it.step(it.params, x[:, 0], reset[:, 1], last)
    close(after, it.step(it.params, x[:, 0], reset[:, 1], state)[0])


def test_parts_are_the_whole(it):
    """The state after the first half is all that the second needs, with resets and without."""
    x, reset = sequence(LENGTH)
    for given, whole in ((reset, it.apply(it.params, x, reset)), (None, it.apply(it.params, x))):
        parts = []
        state = it.network.initial(2)
        for half in (slice(0, HALF), slice(HALF, LENGTH)):
            y, state = it.apply(
                it.params, x[:, half], None if given is None else given[:, half], state
            )
            parts.append(y)
        close(np.concatenate(parts, axis=1), whole.y)


def test_packed_rows_are_single_ones(it):
    """Two sequences one after the other; what stands before the first is forgotten too."""
    x, _ = sequence(LENGTH)
    reset = np.broadcast_to(np.isin(np.arange(LENGTH), (0, HALF)), x.shape[:2])
    packed, _ = it.apply(it.params, x, reset)
    for half in (slice(0, HALF), slice(HALF, LENGTH)):
        close(packed[:, half], it.apply(it.params, x[:, half], None, it.network.initial(2))[0])
    _, other = it.apply(it.params, x[:, HALF:], reset[:, :HALF], it.network.initial(2))
    after, _ = it.apply(it.params, x[:, :HALF], reset[:, :HALF], other)
    close(after, packed[:, :HALF])


def test_nothing_depends_on_what_comes_later(it):
    """The gradient of one output to all inputs: 0 after it and before a reset, else not 0."""
    x, _ = sequence(LENGTH)
    reset = np.broadcast_to(np.arange(LENGTH) == 3, x.shape[:2])
    gradient = jax.jit(jax.grad(lambda x, reset: it.apply(it.params, x, reset)[0][0, 7, 0]))
    for given, first in ((0 * reset > 0, 0), (reset, 3)):
        reaches = np.abs(gradient(jnp.asarray(x), given))[0].max(axis=1) > 0
        assert reaches.tolist() == [first <= t <= 7 for t in range(LENGTH)]


def test_nothing_depends_on_what_comes_later_without_resets_either():
    """S4 has another form there."""
    x, _ = sequence(LENGTH)
    for name in ("s4", "transformer"):
        it = made(name)
        gradient = jax.jit(jax.grad(lambda x, it=it: it.apply(it.params, x)[0][0, 7, 0]))(x)
        size = np.abs(gradient)[0].max(axis=1)
        assert (size[8:] < 1e-6 * size[7]).all()  # the Fourier transform rounds
        assert (size[:8] > 1e-5 * size[7]).all()


@pytest.mark.parametrize("name", AFFINE)
def test_ways_agree(name):
    """To 512 steps, which no chunk divides, with resets."""
    x, reset = sequence(509, share=0.01)
    it = made(name)
    stepped, _ = by_steps(it, x, reset, it.network.initial(2))
    for way in ("serial", "associative", "chunked"):
        it = made(name, recurrence=way)
        close(it.apply(it.params, x, reset)[0], stepped)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_long_recurrences_agree(name):
    x, reset = sequence(509, share=0.01)
    it = made(name)
    close(it.apply(it.params, x, reset)[0], by_steps(it, x, reset, it.network.initial(2))[0])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    """Close to float32, in both forms; parameters and states stay float32, but for the cache."""
    x, reset = sequence(LENGTH)
    exact, _ = made(name).apply(made(name).params, x, reset)
    it = made(name, bfloat16=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(it.params)} == {"float32"}
    y, last = it.apply(it.params, x, reset)
    assert y.dtype == jnp.float32
    stepped, _ = by_steps(it, x, reset, it.network.initial(2))
    close(y, stepped, 2e-2)
    close(y, exact, 5e-2)
    kept = {leaf.dtype.name for leaf in jax.tree.leaves(last)} - {"int32"}
    assert kept == {"bfloat16" if name == "transformer" else "float32"}


def test_a_cache_that_is_full_forgets_the_oldest():
    """Beyond its context of 8, a step sees the last 8, itself among them, in both forms."""
    x, _ = sequence(20)
    it = made("transformer", 8, layers=1)
    nowhere = np.zeros((2, 20), bool)
    stepped, _ = by_steps(it, x, nowhere, it.network.initial(2))
    whole, _ = it.apply(it.params, x, None, it.network.initial(2))
    close(whole, stepped)
    other = x.copy()
    other[:, :12] = 0  # the last step sees those from 12 on
    changed, _ = it.apply(it.params, other, None, it.network.initial(2))
    close(changed[:, -1], whole[:, -1])
    assert np.abs(changed[:, -2] - whole[:, -2]).max() > 1e-3


def test_more_steps_than_the_context_are_refused():
    it = made("transformer", 8, layers=1)
    x, _ = sequence(9)
    with pytest.raises(ValueError, match="9 steps for a context of 8"):
        it.apply(it.params, x)


def test_dropout_is_of_each_row_and_scales():
    x, _ = sequence(LENGTH)
    it = made("gru", dropout=0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    y = it.apply(it.params, x, keys=keys)[0]
    alone = it.apply(it.params, x[1:], keys=keys[1:])[0]
    close(y[1:], alone)
    assert np.abs(y - it.apply(it.params, x)[0]).max() > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "heads": 4}, "--width is 10; it must be a multiple of --heads, 4."),
        ({"s4_states": 5}, "--s4-states is 5; it must be even: states come in pairs."),
        ({"layers": 0}, "--layers is 0; it must be at least 1."),
        ({"dropout": 1.0}, "--dropout is 1.0; it must lie between 0 and 0.9."),
    ],
)
def test_settings_that_make_no_network(settings, message):
    with pytest.raises(UserError) as caught:
        Settings("transformer", **settings).check("")
    assert str(caught.value) == message


def test_width_is_that_of_the_network():
    assert made("lstm").apply(*(made("lstm").params, sequence(3)[0]))[0].shape == (2, 3, WIDTH)
