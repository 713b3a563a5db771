"""What is written by what is remembered is what the whole window gives, drawn alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.data import tokenizer
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.eval import sampling
from missing_bits.eval.sampling import Sampling
from missing_bits.eval.writer import Writer, next_logits
from missing_bits.nets.sequences.stack import Settings

CONTEXT = 8
VOCABULARY = 11
HOW = Sampling(temperature=2.0, top_k=7)
PROMPT = np.array([5, 6, 7], np.int32)


@functools.cache
def model(network):
    """An encoder whose predictions are far from uniform."""
    words = tokenizer.train(["abcdefg"], "characters", 0)
    settings = Settings(network, layers=1, width=16, heads=2)
    encoder = CausalEncoder(settings, VOCABULARY, CONTEXT, words.to_json())
    variables = jax.jit(encoder.init)(jax.random.key(0))
    return encoder, jax.tree.map(lambda leaf: 3 * leaf, variables)


def written(network, length, how=HOW, rows=3, prompt=PROMPT):
    encoder, variables = model(network)
    writer = Writer(encoder, variables, rows)
    return np.concatenate(list(writer.write(prompt, length, how, jax.random.key(4))))


def expected(network, length, rows=3):
    """The same without any memory: at each token, the network reads the whole window anew."""
    encoder, variables = model(network)
    read = jax.jit(
        lambda tokens, last: next_logits(
            encoder,
            variables,
            encoder.tokens(variables, tokens, tokens == tokenizer.SEP)[jnp.arange(rows), last],
        )
    )
    window = np.tile(PROMPT, (rows, 1))
    found = []
    for number in range(length):
        if network == "transformer" and window.shape[1] == CONTEXT:
            window = window[:, CONTEXT // 2 :]
        padded = np.zeros((rows, CONTEXT if network == "transformer" else 33), np.int32)
        padded[:, : window.shape[1]] = window
        logits = read(padded, window.shape[1] - 1)
        key = jax.random.fold_in(jax.random.key(4), number)
        tokens = np.asarray(sampling.draw(key, logits, HOW))
        found.append(tokens)
        window = np.concatenate([window, tokens[:, None]], axis=1)
    return np.stack(found)


@pytest.mark.parametrize("network", ["transformer", "gru"])
def test_memory_changes_nothing(network):
    """Within the context, and beyond, where the transformer reads the last half of it anew.

    Documents end on the way, where all is forgotten.
    """
    found = written(network, 30)
    np.testing.assert_array_equal(found, expected(network, 30))
    assert (found == tokenizer.SEP).any()
    assert (found[:, 0] != found[:, 1]).any()
    assert not np.isin(found, [tokenizer.PAD, tokenizer.UNK, tokenizer.MASK]).any()


def test_a_prompt_may_fill_the_context_but_for_one():
    encoder, variables = model("transformer")
    assert Writer(encoder, variables, 1).longest == CONTEXT - 1
    assert Writer(*model("gru"), 1).longest is None
    prompt = np.arange(CONTEXT - 1, dtype=np.int32) % 7 + 4
    assert written("transformer", 5, prompt=prompt).shape == (5, 3)


def test_other_ways_to_draw_compile_nothing():
    encoder, variables = model("gru")
    writer = Writer(encoder, variables, 2)
    for how in (HOW, Sampling(), Sampling(0.0, 3, 0.5)):
        list(writer.write(PROMPT, 3, how, jax.random.key(0)))
    assert writer._write._cache_size() == 1


def test_the_likeliest_tokens_need_no_key():
    greedy = Sampling(temperature=0.0)
    assert (written("gru", 20, greedy)[:, 0] == written("gru", 20, greedy)[:, 1]).all()
