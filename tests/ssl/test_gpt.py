"""GPT: what it predicts from what, sizes, what it leaves behind, learning, and mistakes."""

import functools
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import optimizers, options
from missing_bits.data.tokenizer import SEP, Tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError
from missing_bits.ssl import gpt
from missing_bits.ssl.gpt import GPT, Config, Rows

WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with a file, and a folder of classes."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "days.txt").write_text("".join(f"{n}. {WEEK}" for n in range(60)))
    return folder


@pytest.fixture(scope="module")
def make(texts):
    """The function that makes a small method; each only once."""
    tiny = options.make(Config, **gpt.TINY)

    @functools.cache
    def make(**changed):
        config = options.replace(tiny, {"data": f"txt:{texts}/days.txt", **changed})
        options.check(config)
        GPT.check(config)
        return GPT(config, GPT.resources(config))

    return make


def test_rows_begin_at_every_place_and_no_token_is_left_out(make):
    method = make()
    tokens = method.resources.streams.train.tokens
    rows = method.source([0])._examples.tokens
    np.testing.assert_array_equal(rows[:, 0], tokens[: len(tokens) - 16])
    np.testing.assert_array_equal(rows[-1], tokens[-17:])
    source = method.source([0, 1])
    batch = source.next(None, 0).tokens
    source.close()
    assert batch.shape == (2, 16, 17)
    assert (batch[0] != batch[1]).any()


@pytest.mark.parametrize("network", ["transformer", "lstm"])
def test_the_loss_is_the_mean_over_all_predictions(make, network):
    """One after the other in float64; each reads its row alone, from its document's start."""
    method = make(network=network)
    params = jax.tree.map(lambda leaf: 2 * leaf, jax.jit(method.init)(jax.random.key(0)).params)
    rows = np.array(method.source([0])._examples.tokens[40:44])
    rows[1, 5] = rows[2, 0] = rows[3, 9] = SEP
    assert method.has_ends  # a file is split into blocks, which are documents
    loss, _ = jax.jit(method.loss)(params, rows, None)
    encoder = method.model.encoder
    table = np.asarray(encoder.table(params), np.float64)
    read = jax.jit(lambda tokens: encoder.tokens(Variables(params, {}), tokens))
    losses = []
    for row in rows:
        for place in range(1, 17):
            start = np.flatnonzero(np.append(True, row[1:place] == SEP))[-1]
            context = np.zeros((1, 16), np.int32)
            context[0, : place - start] = row[start:place]
            logits = table @ np.asarray(read(context))[0, place - start - 1]
            losses.append(np.log(np.exp(logits).sum()) - logits[row[place]])
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_without_ends_within_rows_nothing_is_masked(make, texts):
    """Of a single document: the program is another, its loss the same."""
    method = make(split="end")
    assert not method.has_ends
    params = jax.jit(method.init)(jax.random.key(0)).params
    rows = method.source([0])._examples.tokens[:4].copy()
    plain, _ = jax.jit(method.loss)(params, rows, None)
    method.has_ends = True
    masked, _ = jax.jit(method.loss)(params, rows, None)
    method.has_ends = False
    assert plain == pytest.approx(float(masked), rel=1e-5)


def test_dropout_is_drawn_for_each_row(make):
    method = make(dropout=0.5)
    params = jax.jit(method.init)(jax.random.key(0)).params
    rows = method.source([0])._examples.tokens[:2]
    loss = jax.jit(method.loss)
    draws = [float(loss(params, rows, jax.random.split(jax.random.key(n), 2))[0]) for n in (0, 1)]
    assert draws[0] != draws[1]
    state = jax.eval_shape(method.init, jax.random.key(0))
    batch = Rows(np.zeros((16, 17), np.int32))
    jax.eval_shape(method.step, state, batch, jax.random.key(0))


@pytest.mark.parametrize("network", get_args(options.names(Config)["network"]))
def test_every_network_steps(make, network):
    method = make(network=network, tokenizer="bytes")
    state = jax.eval_shape(method.init, jax.random.key(0))
    after, metrics = jax.eval_shape(
        method.step, state, Rows(np.zeros((16, 17), np.int32)), jax.random.key(0)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics.keys() == {"train/loss", "train/gradient_norm"}


def test_sizes_are_the_published_ones():
    """Parameters of GPT-2 with its 50,257 tokens: 124 and 355 millions."""
    for size, millions in (("gpt2", 124), ("gpt2_medium", 355)):
        config = gpt.sized(options.make(Config, size=size))
        encoder = gpt.CausalEncoder(config.sequences, 50_257, config.text.length, "")
        params = jax.eval_shape(encoder.init, jax.random.key(0)).params
        assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6) == millions
        assert config.text.length == 1024
    micro = options.make(Config, size="gpt_micro")
    assert gpt.sized(micro) == micro  # it is the default
    assert {*get_args(options.names(Config)["size"])} == {"custom", *gpt.SIZES}
    for numbers in gpt.SIZES.values():
        assert numbers["width"] % numbers["heads"] == 0


def test_what_is_handed_over_is_the_encoder_with_its_tokenizer(make, tmp_path):
    method = make(network="gru")
    params = jax.device_get(jax.jit(method.init)(jax.random.key(0)).params)
    method.hand_over(params, tmp_path / "encoder" / "seed0.safetensors", {"exp": "gpt"})
    loaded = files.load(tmp_path)
    assert loaded.encoder == method.model.encoder
    chex.assert_trees_all_equal(loaded.variables.params, params)
    assert loaded.head == {}
    words = Tokenizer.from_json(loaded.encoder.tokenizer)
    assert words.to_json() == method.resources.streams.words.to_json()
    assert (tmp_path / "encoder" / "tokenizer.json").exists()
    features = np.asarray(loaded(["Monday Tues", "Sun"]))
    assert features.shape == (2, 16)
    tokens = jnp.asarray(words.encode("Sun").ids)[None]
    encoded = method.model.encoder.tokens(Variables(params, {}), tokens)
    np.testing.assert_allclose(features[1], encoded[0].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_the_ngram_is_counted_and_told_before_training(make, texts, capfd):
    make(vocabulary=777)
    told = capfd.readouterr().err
    assert "-gram (interpolated, Witten-Bell)" in told
    assert "bits per byte" in told
    baselines = make(vocabulary=777).evaluation.baselines(jax.random.key(0))
    assert baselines["baseline/ngram_bits_per_byte"] < baselines["baseline/unigram_bits_per_byte"]


@pytest.mark.parametrize("network", ["transformer", "gru"])
def test_it_learns_beyond_the_most_frequent_characters(make, trained, network):
    """The 1-gram knows how frequent characters are; the days of the week follow each other."""
    fast = optimizers.Optimizer(learning_rate=1e-2, clip=1.0)
    method = make(network=network, width=32, updates=100, optimizer=fast)
    scores = method.evaluation.scores(trained(method, 100), jax.random.key(0), True)
    baselines = method.evaluation.baselines(jax.random.key(0))
    unigram = baselines["baseline/unigram_bits_per_byte"]
    assert scores["eval/bits_per_byte"] < 0.6 * unigram
    assert scores["eval/bits_per_byte_on_test"] < 0.6 * unigram
    assert scores["eval/loss"] < 0.6 * baselines["baseline/unigram_loss"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"updates": 0}, "--updates is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": 100_000}, "--batch-size is 100000, but there are"),
        ({"length": 1}, "--length is 1; a row needs at least 2 tokens"),
        ({"length": 2_000}, "--length=2000 is longer than all there is: the validation split has"),
        ({"length": 60_000}, "--length=60000 is longer than all there is: the train split has"),
        ({"stride": 17}, "--stride is 17; it must lie between 1 and the context, 16"),
        ({"stride": -1}, "--stride is -1"),
        ({"width": 17}, "--width is 17; it must be a multiple of --heads, 2"),
        ({"layers": 0}, "--layers is 0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
        ({"tokenizer": "bpe", "vocabulary": 9_000}, "--vocabulary=9000 is larger than the text"),
        ({"tokenizer": "bpe", "vocabulary": 200}, "--vocabulary is 200; it must be at least 260"),
        ({"size": "gpt_mini"}, "--layers=1, but --size=gpt_mini has a layers of its own, 6"),
        ({"data": "digits"}, "--data=digits is a set of images"),
        ({"data": "topics", "split": "end"}, "--split=end is for a single file"),
        ({"optimizer": {"clip": -1.0}}, "--optimizer.clip is -1.0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, texts):
    config = options.make(Config, **gpt.TINY | {"data": f"txt:{texts}/days.txt"})
    with pytest.raises(UserError) as refused:
        build(GPT, options.replace(config, changed)).source([0])
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
