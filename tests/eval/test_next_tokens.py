"""Held-out loss: each token once, as a plain loop has it, per token and per byte; no leaks."""

import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data.text import Text
from missing_bits.data.tokenizer import SEP
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError
from missing_bits.eval import next_tokens
from missing_bits.eval.next_tokens import NextTokens, stride_of
from missing_bits.nets.sequences.stack import Settings
from missing_bits.ssl.gpt import Model

LENGTH = 8
VERSES = "".join(f"verse {n} sings of {n % 7} birds — and naïve {n % 5} 猫\n" for n in range(120))


@functools.cache
def streams(kind="characters", vocabulary=300):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "verses.txt"
        path.write_text(VERSES)
        return Text(f"txt:{path}", LENGTH, kind, vocabulary).read_streams()


@functools.cache
def model(network):
    found = streams()
    encoder = CausalEncoder(
        Settings(network, layers=1, width=16, heads=2),
        found.words.size,
        LENGTH,
        found.words.to_json(),
    )
    params = jax.jit(encoder.init)(jax.random.key(0)).params
    return Model(encoder), jax.tree.map(lambda leaf: 3 * leaf, params)


def judge(network, stride):
    found, _ = model(network)
    return NextTokens(streams(), found.encoder, found.losses, LENGTH, stride)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_windows_predict_each_token_once_with_a_context(data):
    length = data.draw(st.integers(1, 9))
    stride = data.draw(st.integers(1, length))
    size = data.draw(st.integers(length + 1, 60))
    tokens = np.arange(size)
    found = next_tokens.windows(tokens, length, stride)
    np.testing.assert_array_equal(found.targets[found.counts], tokens[1:])
    np.testing.assert_array_equal(found.targets, found.inputs + 1)
    _, columns = np.nonzero(found.counts)
    before = columns + 1  # inputs up to the one that predicts
    assert (before >= np.minimum(tokens[1:], length - stride + 1)).all()


@functools.cache
def predicted(network):
    """The function that gives the log-probabilities of what follows a place of a context."""
    found, params = model(network)
    encoder = found.encoder

    @jax.jit
    def predicted(context, last):
        reset = context == SEP
        y = encoder.tokens(Variables(params, {}), context[None], reset[None])[0, last]
        return jax.nn.log_softmax(encoder.table(params) @ y)

    return predicted


@pytest.mark.parametrize("network", ["transformer", "gru"])
@pytest.mark.parametrize("stride", [3, LENGTH])
def test_losses_are_those_of_a_plain_loop(network, stride):
    """One prediction after the other, each of which reads its own context."""
    tokens = streams().validation.tokens[:45]
    losses = []
    start = 0
    for place in range(1, len(tokens)):
        while place > start + LENGTH:  # the first window that reaches so far
            start = min(start + stride, len(tokens) - 1 - LENGTH)
        context = np.zeros(LENGTH, np.int32)
        context[: place - start] = tokens[start:place]
        losses.append(-float(predicted(network)(context, place - start - 1)[tokens[place]]))
    ours = judge(network, stride).losses(model(network)[1], tokens)
    np.testing.assert_allclose(ours, losses, rtol=1e-4, atol=1e-5)


def test_scores_are_means_over_tokens_and_bits_over_bytes():
    _, params = model("gru")
    judged = judge("gru", 4)
    scores = judged.scores(params, last=True)
    for name, stream in (("", streams().validation), ("_on_test", streams().test)):
        losses = judged.losses(params, stream.tokens).astype(np.float64)
        assert losses.shape == (len(stream.tokens) - 1,)
        assert scores[f"eval/loss{name}"] == pytest.approx(losses.mean())
        bits = losses.sum() / np.log(2) / stream.size
        assert scores[f"eval/bits_per_byte{name}"] == pytest.approx(bits)
    assert judged.scores(params, last=False).keys() == {"eval/loss", "eval/bits_per_byte"}
    headline = judged.evaluation().headline
    assert (headline.name, headline.larger_is_better) == ("eval/bits_per_byte", False)


def uniform(found):
    """Judges a model to which all bytes are alike: a token of n bytes has probability 256^-n."""
    sizes = np.array([len(found.words.spelled(number)) for number in range(found.words.size)])

    def losses(params, inputs, targets):
        return jnp.asarray(sizes * np.log(256), jnp.float32)[targets]

    encoder = CausalEncoder(Settings("gru", 1, 8), found.words.size, LENGTH, found.words.to_json())
    return NextTokens(found, encoder, losses, LENGTH, 5)


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_bits_per_byte_of_a_uniform_model_are_eight_whatever_the_tokens(kind):
    found = streams(kind)
    scores = uniform(found).scores({}, last=True)
    assert scores["eval/bits_per_byte"] == pytest.approx(8, rel=1e-6)
    assert scores["eval/bits_per_byte_on_test"] == pytest.approx(8, rel=1e-6)
    assert scores["eval/loss"] == pytest.approx(
        8 * np.log(2) * found.validation.size / (len(found.validation.tokens) - 1), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_what_is_unknown_costs_its_bytes(kind, tmp_path):
    """Held-out text with characters that training has not: still 8 bits, whatever the tokens."""
    path = tmp_path / "verses.txt"
    path.write_text(VERSES + "ÆØ🐈 " * 100)
    found = Text(f"txt:{path}", LENGTH, kind, 300, split="end").read_streams()
    assert (found.validation.unknown > 0) == (kind == "characters")
    scores = uniform(found).scores({}, last=True)
    assert scores["eval/bits_per_byte"] == pytest.approx(8, rel=1e-6)


@pytest.mark.parametrize("network", ["transformer", "gru"])
def test_a_document_does_not_leak_into_another(network):
    """Of three documents the second is changed: the losses of the others stay, bit for bit."""
    _, params = model(network)
    rng = np.random.default_rng(0)
    documents = [rng.integers(4, 12, size) for size in (7, 9, 14)]
    before = np.concatenate([[SEP], *(np.append(document, SEP) for document in documents)])
    after = before.copy()
    after[9:18] = 23 - after[9:18]
    assert (before != after).sum() == 9
    judged = judge(network, 4)
    losses = judged.losses(params, before)  # of before[1:]
    changed = judged.losses(params, after)
    np.testing.assert_array_equal(changed[:8], losses[:8])
    np.testing.assert_array_equal(changed[18:], losses[18:])
    assert (changed[8:18] != losses[8:18]).all()


def test_the_ngram_is_told_before_anything_is_learned(capfd):
    judged = judge("gru", 4)
    judged.tell_baselines()
    found = judged.baselines
    told = capfd.readouterr().err
    assert f"A {found['baseline/ngram_order']}-gram (interpolated, Witten-Bell)" in told
    assert f"{found['baseline/ngram_bits_per_byte']:.4f} bits per byte" in told
    assert found["baseline/ngram_loss"] < found["baseline/unigram_loss"]
    stream = streams().validation
    assert found["baseline/ngram_bits_per_byte"] == pytest.approx(
        found["baseline/ngram_loss"] * (len(stream.tokens) - 1) / np.log(2) / stream.size
    )


def test_samples_are_written_after_held_out_text(tmp_path):
    _, params = model("gru")
    judge("gru", 4).evaluation().pictures(params, 0, tmp_path)
    text = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    assert text.count("is written by the model") == 3
    held_out = streams().words.decode(streams().validation.tokens)
    for page in text.split("Sample ")[1:]:
        prompt = page.split("=\n\n")[1].split("|")[0]
        assert len(prompt.replace("[SEP]", "|")) == LENGTH - 1
        assert prompt in held_out


def test_a_stride_lies_within_the_context():
    assert stride_of(0, 9) == 5
    assert stride_of(9, 9) == 9
    with pytest.raises(UserError, match="--stride is 10; it must lie between 1 and the context, 9"):
        stride_of(10, 9)
