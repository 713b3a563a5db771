"""Packed documents are encoded as if alone, padding makes no difference, types of the results."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.encoders.text import TextEncoder
from missing_bits.nets import text

VOCABULARY = 13
LENGTH = 10
ENCODER = TextEncoder("bert_nano", VOCABULARY, LENGTH, "{}", dropout=0.3)


def filled(shapes):
    """Parameters of these shapes, none of them zero or one: normal numbers of deviation 0.3."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


@functools.cache
def variables():
    """Variables of the encoder."""
    return filled(jax.eval_shape(ENCODER.init, jax.random.key(0)))


TOKENS = jax.jit(ENCODER.tokens)
FEATURES = jax.jit(lambda variables, tokens: ENCODER.apply(variables, tokens)[0])


def row(*documents):
    """A row of LENGTH tokens and its segments.

    Documents stand one after the other, numbered from 1, then padding of 0.
    """
    tokens = [token for document in documents for token in document]
    numbers = [1 + i for i, document in enumerate(documents) for _ in document]
    fill = [0] * (LENGTH - len(tokens))
    return np.array(tokens + fill, np.int32), np.array(numbers + fill, np.int32)


@st.composite
def pairs_of_documents(draw):
    """Draws two documents of at least one token each that fit in a row together."""
    first = draw(st.integers(1, LENGTH - 1))
    second = draw(st.integers(1, LENGTH - first))
    token = st.integers(1, VOCABULARY - 1)
    return [draw(st.lists(token, min_size=size, max_size=size)) for size in (first, second)]


@settings(max_examples=25, deadline=None)
@given(pairs_of_documents())
def test_two_documents_in_a_row_are_encoded_as_each_alone(documents):
    first, second = documents
    rows = [row(first, second), row(first), row(second)]
    packed, alone, other = np.asarray(
        TOKENS(variables(), *(np.stack(part) for part in zip(*rows, strict=True)))
    )
    end = len(first) + len(second)
    np.testing.assert_allclose(packed[: len(first)], alone[: len(first)], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(packed[len(first) : end], other[: len(second)], rtol=1e-5, atol=1e-5)


def test_one_document_is_not_two():
    """The same tokens in one segment see each other."""
    tokens, segments = row([3, 1, 4], [1, 5])
    two, one = np.asarray(
        TOKENS(variables(), np.stack([tokens] * 2), np.stack([segments, np.minimum(segments, 1)]))
    )
    assert (np.abs(two - one)[:5].max(axis=1) > 1e-2).all()


def test_the_order_of_tokens_matters():
    tokens = np.stack([row([3, 1, 4])[0], row([4, 1, 3])[0]])
    one, other = np.asarray(FEATURES(variables(), tokens))
    assert np.abs(one - other).max() > 1e-2


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=6))
def test_padding_makes_no_difference_to_features(document):
    """Six tokens or ten: what fills the row is not in the mean, and no token attends to it."""
    tokens = np.zeros((1, LENGTH), np.int32)
    tokens[0, : len(document)] = document
    longer = FEATURES(variables(), tokens)
    shorter = FEATURES(variables(), tokens[:, :6])
    np.testing.assert_allclose(longer, shorter, rtol=1e-5, atol=1e-5)


def test_features_are_means_over_tokens():
    tokens, segments = (part[None] for part in row([7, 2, 2, 9]))
    each = np.asarray(TOKENS(variables(), tokens, segments))[0, :4]
    np.testing.assert_allclose(
        FEATURES(variables(), tokens)[0], each.mean(axis=0), rtol=1e-5, atol=1e-5
    )


def test_a_row_of_padding_alone_has_features_of_zero_and_harms_no_other():
    tokens = np.stack([row([])[0], row([7, 2])[0]])
    features = np.asarray(FEATURES(variables(), tokens))
    np.testing.assert_array_equal(features[0], 0)
    np.testing.assert_allclose(
        features[1:], FEATURES(variables(), tokens[1:]), rtol=1e-5, atol=1e-5
    )


def test_features_drop_nothing_and_tokens_only_with_keys():
    certain = TextEncoder("bert_nano", VOCABULARY, LENGTH, "{}")
    tokens, segments = (part[None] for part in row([7, 2, 2, 9]))
    plain = np.asarray(jax.jit(certain.tokens)(variables(), tokens, segments))
    np.testing.assert_allclose(TOKENS(variables(), tokens, segments), plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        FEATURES(variables(), tokens)[0], plain[0, :4].mean(axis=0), rtol=1e-5, atol=1e-5
    )
    keys = jax.random.split(jax.random.key(0), 1)
    dropped = np.asarray(TOKENS(variables(), tokens, segments, keys))
    assert np.abs(dropped - plain)[0, :4].max() > 0.1


def test_bfloat16_gives_float32_near_those_of_float32():
    """Eight bits: the last normalization has values of about 1.

    Their errors are a few 2^-9 after two blocks.
    """
    narrow = TextEncoder("bert_nano", VOCABULARY, LENGTH, "{}", bfloat16=True)
    shapes = jax.eval_shape(narrow.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    tokens, segments = (part[None] for part in row([7, 2, 2, 9], [3]))
    wide = TOKENS(variables(), tokens, segments)
    found = jax.jit(narrow.tokens)(variables(), tokens, segments)
    assert found.dtype == wide.dtype == jnp.float32
    error = float(jnp.abs(found - wide).max() / jnp.abs(wide).max())
    assert 1e-4 < error < 0.05


def test_sizes_are_those_of_the_names():
    """Widths D and layers N of Turc et al. 2019, where a block has 12 D^2 + 13 D parameters.

    3 D^2 + 3 D for queries, keys and values, D^2 + D to mix them, 4 D^2 + 4 D and 4 D^2 + D in the
    MLP, 4 D in two normalizations; at the end 2 D more. A head for every 64 tells 65 distances
    apart, from 32 to the left to 32 to the right. With 30,522 words the largest has 108.5 million:
    BERT-Base has 110 (Devlin et al. 2019, section 3), of which 0.6 are a pooler and 0.4 learned
    positions, which ours has not.
    """
    sizes = {
        "nano": (64, 1),
        "tiny": (128, 2),
        "mini": (256, 4),
        "small": (512, 4),
        "medium": (512, 8),
        "base": (768, 12),
    }
    assert {f"bert_{name}" for name in sizes} == set(text.NAMES)
    for name, (d, n) in sizes.items():
        encoder = TextEncoder(f"bert_{name}", 30_522, 512, "{}")
        count = hk.data_structures.tree_size(jax.eval_shape(encoder.init, jax.random.key(0)).params)
        assert count == 30_522 * d + n * (12 * d * d + 13 * d + 65 * d // 64) + 2 * d
        assert encoder.num_features == d
    assert abs(count / 1e6 - (110 - 0.6 - 0.4)) < 0.6


def test_logits_of_words_by_hand():
    """x = (100, 0) is exchanged to (0, 100), which GELU leaves, and normalized to (-1, 1).

    The mean is 50, the deviation 50. Times (2, 3), plus (1, 0): (-1, 3). With the embeddings (1,
    0), (0, 1), (2, 1): -1, 3, -2 + 3 = 1. Plus the bias (0.5, 0, -4): -0.5, 3, -3. The head knows
    no other table than the one it is given.
    """
    head = text.word_head()
    table = np.array([[1, 0], [0, 1], [2, 1]], np.float32)
    params = jax.device_get(head.init(jax.random.key(0), table[:1], table))
    assert {name: set(leaves) for name, leaves in params.items()} == {
        "word_head": {"bias"}, "word_head/dense": {"w", "b"}, "word_head/norm": {"scale", "offset"},
    }  # fmt: skip
    # All tokens start alike.
    np.testing.assert_array_equal(params["word_head"]["bias"], np.zeros(3))
    params["word_head"]["bias"] = np.array([0.5, 0, -4], np.float32)
    params["word_head/dense"] = {
        "w": np.array([[0, 1], [1, 0]], np.float32),
        "b": np.zeros(2, np.float32),
    }
    params["word_head/norm"] = {
        "scale": np.array([2, 3], np.float32),
        "offset": np.array([1, 0], np.float32),
    }
    for shape in [(2,), (1, 2), (1, 1, 2)]:
        logits = head.apply(params, np.array([100, 0], np.float32).reshape(shape), table)
        np.testing.assert_allclose(
            logits, np.array([-0.5, 3, -3]).reshape(*shape[:-1], 3), atol=1e-4
        )
