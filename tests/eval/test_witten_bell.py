"""The n-gram of language models by hand, against a slow version, and at the ends of documents."""

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data.tokenizer import SEP
from missing_bits.eval import witten_bell

A, B, C = 4, 5, 6
V = 8


def stream(*documents):
    """Return documents with a SEP before, between and after them."""
    tokens = [SEP]
    for document in documents:
        tokens += [*document, SEP]
    return np.array(tokens)


def orders(train, held_out, count, vocabulary=V):
    return list(itertools.islice(witten_bell.interpolated(train, held_out, vocabulary), count))


def test_a_tiny_text_by_hand():
    """Training holds a b a c and its end: a twice, b, c and SEP once, five tokens of four kinds.

    The 1-gram gives b (1 + 4 / 8) / (5 + 4) = 1/6 and a (2 + 1/2) / 9 = 5/18. After a came b and c,
    two tokens of two kinds: the 2-gram gives b there (1 + 2 * 1/6) / (2 + 2) = 1/3. a begins the
    one document: (1 + 5/18) / (1 + 1) = 23/36. After b came a once: (1 + 5/18) / 2 likewise. The
    end after a came never: the 1-gram's 1/6, so (0 + 2 * 1/6) / 4 = 1/12.
    """
    one, two = orders(stream([A, B, A, C]), stream([A, B, A]), 2)
    np.testing.assert_allclose(one, [5 / 18, 1 / 6, 5 / 18, 1 / 6])
    np.testing.assert_allclose(two, [23 / 36, 1 / 3, 23 / 36, 1 / 12])


def test_a_context_that_was_never_seen_leaves_the_shorter_one():
    """7 after b: (0 + 1 * 1/18) / (1 + 1), and c b was never seen. Nor was 7 before b."""
    one, two, three = orders(stream([A, B, A, C]), stream([C, B, 7, B]), 3)
    assert two[2] == pytest.approx(1 / 36)
    assert three[2] == two[2]
    assert three[3] == two[3] == one[3]


def slow(train, held_out, order, vocabulary):
    """Return the same probabilities by counting in dictionaries, one token after the other."""

    def contexts(tokens, place):
        """Return the contexts of a token, the empty one first."""
        found = [()]
        for start in range(place - 1, max(-1, place - order), -1):
            found.append(tuple(tokens[start:place]))
            if tokens[start] == SEP:
                break
        return found

    counts = defaultdict(Counter)
    for place in range(1, len(train)):
        for context in contexts(train, place):
            counts[context][train[place]] += 1
    chances = []
    for place in range(1, len(held_out)):
        chance = 1 / vocabulary
        for context in contexts(held_out, place):
            followers = counts[context]
            if followers:
                kinds = len(followers)
                chance = (followers[held_out[place]] + kinds * chance) / (followers.total() + kinds)
        chances.append(chance)
    return chances


texts = st.lists(st.lists(st.integers(4, 6), max_size=9), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(train=texts, held_out=texts, order=st.integers(1, 5))
def test_probabilities_equal_a_slow_version(train, held_out, order):
    """Where documents are short, contexts that begin with them are met again and again."""
    train, held_out = stream(*train), stream(*held_out)
    found = orders(train, held_out, order)[-1]
    np.testing.assert_allclose(found, slow(train.tolist(), held_out.tolist(), order, V))


@settings(max_examples=20, deadline=None)
@given(train=texts, context=st.lists(st.integers(4, 6), max_size=4), order=st.integers(1, 5))
def test_probabilities_of_all_tokens_sum_to_one(train, context, order):
    total = sum(
        orders(stream(*train), np.array([SEP, *context, token]), order)[-1][-1]
        for token in range(V)
    )
    assert total == pytest.approx(1)


def test_the_best_order_is_that_of_the_smallest_loss():
    rng = np.random.default_rng(0)
    cycle = np.tile([A, A, B, A, B, B, C], 30)  # two tokens before tell the next one
    noisy = np.where(rng.random(cycle.size) < 0.1, C, cycle)
    train, validation, test = map(stream, (noisy[:150], noisy[150:180], noisy[180:]))
    on_validation, on_test = (
        [-np.log(chances) for chances in orders(train, held_out, 6)]
        for held_out in (validation, test)
    )
    found = witten_bell.best(train, validation, test, V)
    means = [losses.mean() for losses in on_validation]
    assert found.order == 1 + int(np.argmin(means)) > 1
    np.testing.assert_allclose(found.validation, on_validation[found.order - 1])
    np.testing.assert_allclose(found.test, on_test[found.order - 1])
    np.testing.assert_allclose(found.unigram, on_validation[0])
