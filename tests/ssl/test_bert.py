"""BERT: one mean over all devices, what is hidden and counts, what is judged and left, learning."""

import functools
import json
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from missing_bits import collectives, options
from missing_bits.data import tokenizer
from missing_bits.data.packing import Packed
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files
from missing_bits.errors import UserError
from missing_bits.eval import masked_tokens
from missing_bits.eval.masked_tokens import MaskedTokens
from missing_bits.ssl import bert
from missing_bits.ssl.bert import BERT, Config

TINY = options.make(
    Config,
    updates=10,
    batch_size=8,
    length=32,
    vocabulary=512,
    network="bert_nano",
    mask_share=0.15,
    dropout=0.1,
)


@functools.cache
def resources():
    """Python's help, and all that small methods on it share."""
    return BERT.resources(TINY)


@functools.cache
def make(**changed):
    """A small method on Python's help, with some settings changed that leave its text alone."""
    return BERT(options.replace(TINY, changed), resources())


@functools.cache
def judge():
    """What judges `make()`."""
    return MaskedTokens(resources().texts, resources().model)


@functools.cache
def params():
    """Parameters of every method whose network is that of `make()`."""
    return jax.jit(make().init)(jax.random.key(0)).params


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def rows_of(count):
    """The first training rows."""
    return jax.tree.map(lambda leaf: leaf[:count].copy(), resources().texts.train)


def filled_to(counts, length=32):
    """Rows of one document of so many ordinary tokens and a SEP, then padding; or 0: three SEPs."""
    rng, rows = np.random.default_rng(0), []
    for count in counts:
        tokens = (
            [*rng.integers(tokenizer.SPECIALS, 200, count), tokenizer.SEP]
            if count
            else [tokenizer.SEP] * 3
        )
        segments = [1] * len(tokens) if count else [1, 2, 3]
        pad = length - len(tokens)
        rows.append(
            (
                tokens + [tokenizer.PAD] * pad,
                segments + [0] * pad,
                [*range(len(tokens))] + [-1] * pad,
            )
        )
    return Packed(*(np.array(part, np.int32) for part in zip(*rows, strict=True)))


UNEQUAL = filled_to([0, 0, 31, 31, 20, 3, 1, 0])  # the first of four devices has nothing to guess


@pytest.fixture(scope="module")
def stepped():
    """The function that makes one step of gradient descent on unequal rows over some devices.

    Plain descent, so that parameters tell the gradient itself. What every device holds must be the
    same.
    """
    method = BERT(TINY, resources())
    method.optimizer = optax.sgd(0.1)
    state = bert.State(params(), method.optimizer.init(params()))

    @functools.cache
    def stepped(devices):
        if devices == 1:
            after, metrics = jax.jit(method.step)(state, UNEQUAL, jax.random.key(5))
            return jax.device_get((after.params, metrics))
        shards = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), UNEQUAL)
        step = jax.pmap(
            method.step,
            collectives.AXIS,
            in_axes=(None, 0, None),
            devices=jax.devices()[:devices],
        )
        after, metrics = jax.device_get(step(state, shards, jax.random.key(5)))
        jax.tree.map(
            lambda leaf: np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * devices)),
            after.params,
        )
        return jax.tree.map(lambda leaf: leaf[0], (after.params, metrics))

    return stepped


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_with_unequal_tokens_make_the_step_of_one(devices, stepped):
    (one, metrics), (shared, shared_metrics) = stepped(1), stepped(devices)
    chex.assert_trees_all_close(shared_metrics, metrics, rtol=1e-4)
    chex.assert_trees_all_close(shared, one, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, jax.device_get(params()))
    assert max(jax.tree.leaves(moved)) > 1e-3  # or the parameters would tell nothing


def test_the_loss_is_the_sum_over_the_count(stepped):
    """Cross-entropies of the step's masks and dropout, summed in float64.

    It is not the mean of the devices' means.
    """
    method = make()
    mask_keys, dropout_keys = jnp.moveaxis(
        jax.vmap(jax.random.split)(jax.random.split(jax.random.key(5), 8)), 1, 0
    )
    masked = method.model.mask(mask_keys, UNEQUAL, 0.15)
    guess = jax.jit(method.model.guess)
    guesses = guess(params(), masked, UNEQUAL.segments, dropout_keys)
    logits = np.asarray(guesses.logits, np.float64)
    chosen = np.asarray(masked.chosen)
    of_label = np.take_along_axis(logits, np.asarray(masked.labels)[:, :, None], axis=2)[:, :, 0]
    losses = np.log(np.exp(logits).sum(axis=2)) - of_label
    # 15 % of 31, 31, 20, 3 and 1 tokens: 4.65 = 5, 5, 3, 0.45 = 0 but at least 1, and 1.
    np.testing.assert_array_equal(chosen.sum(axis=1), [0, 0, 5, 5, 3, 1, 1, 0])
    _, metrics = stepped(1)
    right = (logits.argmax(axis=2) == np.asarray(masked.labels)) & chosen
    loss = metrics["train/loss"]
    assert loss.count == metrics["train/masked_accuracy"].count == 15
    assert loss.total == pytest.approx(losses[chosen].sum(), rel=1e-4)
    assert metrics["train/masked_accuracy"].total == right.sum()
    halves = [losses[half][chosen[half]].mean() for half in (slice(4), slice(4, 8))]
    assert abs(np.mean(halves) - loss.total / 15) > 1e-3


def test_a_batch_with_nothing_to_guess_changes_nothing_and_has_no_loss():
    method = BERT(TINY, resources())
    method.optimizer = optax.sgd(0.1)
    state = bert.State(params(), method.optimizer.init(params()))
    after, metrics = jax.jit(method.step)(state, filled_to([0] * 8), jax.random.key(0))
    chex.assert_trees_all_equal(after.params, params())
    assert metrics["train/gradient_norm"] == 0
    for name in ("train/loss", "train/masked_accuracy"):
        assert metrics[name].total == metrics[name].count == 0


def test_special_tokens_are_never_hidden_nor_guessed():
    """Nor drawn: in rows of Python's help, with an unknown letter and a literal [MASK] each."""
    method = make()
    rows = rows_of(2_000)
    rows.tokens[:, 5], rows.tokens[:, 9] = tokenizer.UNK, tokenizer.MASK
    masked = jax.tree.map(np.asarray, method.model.mask(keys(2_000), rows, 0.15))
    special = rows.tokens < tokenizer.SPECIALS
    assert set(rows.tokens[special]) == {tokenizer.UNK, tokenizer.SEP, tokenizer.MASK}
    np.testing.assert_array_equal(masked.tokens[special], rows.tokens[special])
    assert masked.labels[masked.chosen].min() >= tokenizer.SPECIALS
    changed = masked.tokens[masked.tokens != rows.tokens]
    assert set(changed[changed < tokenizer.SPECIALS]) == {tokenizer.MASK}
    maskable = (~special).sum(axis=1)
    np.testing.assert_array_equal(
        masked.chosen.sum(axis=1), [max(1, round(n * 15 / 100)) for n in maskable.tolist()]
    )


def test_whole_words_are_never_split():
    """Of each word all tokens are to be guessed or none; and some words have several."""
    model = make().model
    rows, several = rows_of(100), 0
    masked = jax.tree.map(np.asarray, model.mask(keys(100), rows, 0.15, whole_words=True))
    for i in range(100):
        chosen = np.zeros(32, bool)
        chosen[masked.places[i][masked.chosen[i]]] = True
        for word in np.unique(rows.words[i]):
            of_word = chosen[rows.words[i] == word]
            assert of_word.all() or not of_word.any()
            several += of_word.all() and len(of_word) > 1
    assert several > 30
    single = jax.tree.map(np.asarray, model.mask(keys(100), rows, 0.15))  # words are split
    assert (single.places != masked.places).any()


def test_what_is_not_chosen_does_not_count():
    """Whatever stands in the slots that are not chosen; id 0 is a token like another."""
    method = make()
    rows = filled_to([31, 20, 3, 1])
    masked = method.model.mask(keys(4), rows, 0.15)
    assert 0 < int((~masked.chosen).sum()) < masked.chosen.size
    gradient = jax.jit(jax.value_and_grad(lambda *inputs: method.loss(*inputs)[0]))

    def score(labels):
        return gradient(
            params(), masked._replace(labels=labels), rows.segments, None, jnp.float32(10)
        )

    plain = score(masked.labels)
    for other in (0, 77):
        chex.assert_trees_all_equal(score(jnp.where(masked.chosen, masked.labels, other)), plain)
        assert score(jnp.where(masked.chosen, other, masked.labels))[0] != plain[0]


@functools.cache
def evaluated():
    """Scores of untrained parameters, twice with keys of different seeds."""
    return [judge().evaluation().scores(params(), key, False) for key in keys(2)]


def test_evaluation_is_the_same_whatever_its_key_and_whichever_instance():
    assert evaluated()[0] == evaluated()[1]
    changed = {"mask_share": 0.5, "whole_words": True}
    again = BERT.resources(options.replace(TINY, changed))
    other = MaskedTokens(again.texts, again.model)
    chex.assert_trees_all_equal(judge().test, other.test)
    chex.assert_trees_all_equal(judge().validation, other.validation)


def test_training_hides_the_share_and_the_words_it_is_told(monkeypatch):
    told = []
    mask = bert.Model.mask

    def watched(self, keys, rows, share, whole_words=False):
        told.append((share, whole_words))
        return mask(self, keys, rows, share, whole_words)

    monkeypatch.setattr(bert.Model, "mask", watched)
    for method in (make(mask_share=0.5), make(whole_words=True)):
        state = jax.eval_shape(method.init, jax.random.key(0))
        jax.eval_shape(method.step, state, filled_to([31] * 8), jax.random.key(0))
    assert told == [(0.5, False), (0.15, True)]


def test_evaluation_is_the_mean_over_hidden_tokens_without_dropout():
    texts = resources().texts
    found = evaluated()[0]
    guess = jax.jit(resources().model.guess)
    for name, held_out, split in (
        ("masked", judge().test, texts.test),
        ("validation_masked", judge().validation, texts.validation),
    ):
        rows, masked = held_out
        assert rows is split
        logits = guess(params(), masked, rows.segments).logits
        chosen = np.asarray(masked.chosen)
        right = (np.asarray(logits).argmax(axis=2) == np.asarray(masked.labels))[chosen]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, masked.labels)
        loss = np.asarray(losses)[chosen].mean()
        assert found[f"eval/{name}_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
        assert found[f"eval/{name}_loss"] == pytest.approx(loss, rel=1e-4)
    assert make().evaluation.headline == ("eval/masked_accuracy", True)
    assert {"eval/effective_rank", "eval/feature_deviation"} <= set(found)


def test_baselines_count_the_training_text_and_see_what_the_model_sees_or_all(monkeypatch):
    """The n-gram is asked twice: of hidden tokens among hidden ones, and among the true ones."""
    texts = resources().texts
    seen = []

    class Watched(masked_tokens.Ngram):
        def __init__(self, tokens, segments, *sizes):
            seen.append(("trained", tokens, segments, *sizes))
            super().__init__(tokens, segments, *sizes)

        def predict(self, *places):
            seen.append(("asked", *places))
            return super().predict(*places)

    monkeypatch.setattr(masked_tokens, "Ngram", Watched)
    baselines = MaskedTokens(texts, resources().model).evaluation().baselines
    found = baselines(jax.random.key(0))
    assert baselines(jax.random.key(1)) == found
    trained, *questions = seen  # once: what is counted is the same for every seed
    _, tokens, segments, size, specials = trained
    np.testing.assert_array_equal(tokens, texts.train.tokens)
    np.testing.assert_array_equal(segments, texts.train.segments)
    assert (size, specials) == (texts.words.size, tokenizer.SPECIALS)
    masked = jax.tree.map(np.asarray, judge().test.masked)
    labels = masked.labels[masked.chosen]
    for question, shown in zip(questions, (masked.tokens, texts.test.tokens), strict=True):
        _, asked, asked_segments, row, column = question
        np.testing.assert_array_equal(asked, shown)
        np.testing.assert_array_equal(asked_segments, texts.test.segments)
        np.testing.assert_array_equal(texts.test.tokens[row, column], labels)
    ordinary = [token for token in texts.train.tokens.ravel().tolist() if token >= specials]
    most = Counter(ordinary).most_common(1)[0][0]
    names = [
        f"baseline/{name}_masked_accuracy"
        for name in ("unigram", "ngram", "ngram_of_true_neighbors")
    ]
    assert list(found) == names
    unigram, ngram, of_true_neighbors = (found[name] for name in names)
    assert unigram == pytest.approx((labels == most).mean())
    assert unigram < ngram < of_true_neighbors


def test_what_is_handed_over_is_encoder_head_and_tokenizer(tmp_path):
    method = make()
    learned = jax.device_get(params())
    method.hand_over(learned, tmp_path / "encoder" / "seed0.safetensors", {"exp": "bert"})
    loaded = files.load(tmp_path)
    assert loaded.encoder == method.model.encoder
    chex.assert_trees_all_equal((loaded.variables.params, loaded.head), tuple(learned))
    written = (tmp_path / "encoder" / "tokenizer.json").read_text()
    card = json.loads((tmp_path / "encoder" / "seed0.json").read_text())
    assert card["encoder"]["tokenizer"] == loaded.encoder.tokenizer
    assert Tokenizer.from_json(written).to_json() == loaded.encoder.tokenizer
    text = "The assert statement"
    ids = resources().texts.words.encode(text).ids
    np.testing.assert_array_equal(Tokenizer.from_json(written).encode(text).ids, ids)


def test_guesses_are_written_beside_the_truth(tmp_path):
    """A page for each of some rows: the passage, then its hidden tokens in order of place."""
    make().evaluation.pictures(params(), 0, tmp_path)
    text = (tmp_path / "guesses.txt").read_text(encoding="utf-8")
    pages = text.split("Test row ")[1:]
    assert len(pages) == 4
    rows, masked = judge().test
    words = resources().texts.words
    places = np.sort(np.asarray(masked.places)[0][np.asarray(masked.chosen)[0]])
    passage, table = pages[0].split("hidden  ", maxsplit=1)
    assert passage.startswith(f"1 of {len(rows.tokens):,}: ")
    for number in range(1, len(places) + 1):
        assert passage.count(f"[{number}]") == 1
        assert table.count(f"  [{number}] ") == 1
    found = [line.split() for line in table.splitlines()[1 : 1 + len(places)]]
    assert [said[1] for said in found] == [words.token(token) for token in rows.tokens[0, places]]
    shown = rows.tokens[0][np.setdiff1d(np.arange(32), places)]
    assert words.decode(shown[shown >= tokenizer.SPECIALS][:2]) in " ".join(passage.split())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"data": "txt:short.txt"},
            "--length=32 is longer than all there is: the validation split has only",
        ),
        (
            {"data": "txt:short.txt", "length": 999},
            "--length=999 is longer than all there is: the train split",
        ),
        ({"data": "txt:latin.txt"}, "latin.txt is not UTF-8: byte 3 is 0xe9"),
        ({"data": "txt:nowhere.txt"}, "There is no file or folder nowhere.txt"),
        ({"data": "txt:blank.txt"}, "blank.txt holds no text"),
        ({"data": "digits"}, "--data=digits is a set of images"),
        ({"mask_share": 0.0}, "--mask-share is 0.0; it must lie above 0 and below 1"),
        ({"mask_share": 1.0}, "--mask-share is 1.0"),
        ({"mask_share": float("nan")}, "--mask-share is nan"),
        ({"dropout": 1.0}, "--dropout is 1.0; it must lie between 0 and 0.9"),
        ({"vocabulary": 4}, "--vocabulary is 4; it must be at least 8"),
        ({"length": 1}, "--length is 1; a row needs at least 2 tokens"),
        ({"updates": 0}, "--updates is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": 100_000}, "--batch-size is 100000, but there are"),
        ({"optimizer": {"momentum": 1.0}}, "--optimizer.momentum is 1.0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text(
        "\n".join(f"line {number} of a short text" for number in range(20))
    )
    (tmp_path / "latin.txt").write_bytes("café au lait".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(UserError) as refused:
        build(BERT, options.replace(TINY, changed)).source([0])
    assert named in str(refused.value)


def test_it_learns_a_repeated_pattern_beyond_the_most_frequent_token(build, trained, tmp_path):
    """Of seven words in turn the commonest is right once in seven, a reader of neighbors always."""
    week = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday\n"
    (tmp_path / "days.txt").write_text(week * 400)
    changed = {"data": f"txt:{tmp_path}", "updates": 150, "length": 16, "dropout": 0.0}
    method = build(BERT, options.replace(TINY, changed))
    scores = method.evaluation.scores(trained(method, 150), jax.random.key(0), True)
    baselines = method.evaluation.baselines(jax.random.key(0))
    assert baselines["baseline/unigram_masked_accuracy"] < 0.3
    assert baselines["baseline/ngram_of_true_neighbors_masked_accuracy"] == 1
    assert scores["eval/masked_accuracy"] > baselines["baseline/unigram_masked_accuracy"] + 0.4
