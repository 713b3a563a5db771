"""Fine-tuning: what moves and what stays, what is handed over, the classifier by hand, refusals.

And that it learns.
"""

import functools
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import optimizers, options
from missing_bits.data import labeled, tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.errors import UserError
from missing_bits.nets.sequences.stack import Settings
from missing_bits.supervised import finetune
from missing_bits.supervised.finetune import Config, Finetune, Learned

WORDS = {
    "sea": ["wave", "reef", "tide", "gull", "sail", "foam"],
    "wood": ["oak", "moss", "bark", "root", "owl", "trunk"],
    "town": ["kiosk", "jazz", "queue", "bus", "plaza", "taxi"],
}
ENCODERS = {
    "convnet": ImageEncoder("convnet", (16, 16, 1), (0.3,), (0.35,)),
    "vit": ImageEncoder("vit_nano", (16, 16, 1), (0.3,), (0.35,)),
    "narrow": ImageEncoder("convnet", (8, 8, 1), (0.3,), (0.35,)),
    "text": TextEncoder("bert_nano", 260, 32, tokenizer.train([], "bytes", 0).to_json()),
    "causal": CausalEncoder(
        Settings("gru", 1, 32), 260, 32, tokenizer.train([], "bytes", 0).to_json()
    ),
}
TEXTS = ("text", "causal")
CONFIGS = {  # of files that do not tell what they have learned from
    "silent": {},
    "lying": {"data": ["digits"], "images": {"data": 3, "image_size": "large"}},
}
FAST = optimizers.Optimizer(learning_rate=1e-2, warmup=0.0)


def blank(encoder):
    """Variables of an encoder, all of them zeros."""
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The value of --data for 3 classes of 12 texts each, with words of their own."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for name, words in WORDS.items():
        (folder / name).mkdir()
        for i in range(12):
            (folder / name / f"{i}.txt").write_text(" ".join(rng.choice(words, 40)))
    return f"txt:{folder}"


@pytest.fixture(scope="module")
def starts(corpus, tmp_path_factory):
    """The function that makes the folder of a run with a fresh encoder; each only once."""

    @functools.cache
    def start(name):
        folder = tmp_path_factory.mktemp(name)
        encoder = ENCODERS[name]
        images = {"data": "digits", "data_dir": "", "image_size": 0}
        config = {"text": {"data": corpus}} if name in TEXTS else {"images": images}
        facts = {"exp": "test", "config": config}
        variables = jax.device_get(jax.jit(encoder.init)(jax.random.key(99)))
        files.save(folder / "encoder" / "seed0.safetensors", encoder, variables, facts)
        return str(folder)

    return start


@pytest.fixture(scope="module")
def make(starts):
    """The function that makes an experiment, small but for what is changed; each only once."""

    @functools.cache
    def make(name, method, **changed):
        small = {"updates": 10, "batch_size": 8, "optimizer": FAST, "init_from": starts(name)}
        return built(**small | {"method": method} | changed)

    return make


def built(**settings):
    """The method as the loop makes it."""
    config = options.make(Config, **settings)
    options.check(config)
    Finetune.check(config)
    return Finetune(config, Finetune.resources(config))


@functools.cache
def state_of(experiment, seed=0):
    return jax.device_get(jax.jit(experiment.init)(jax.random.key(seed)))


@functools.cache
def trained(experiment, updates=10):
    """The state of seed 0 after some updates."""
    source = experiment.source([0])
    batches = [source.next(None, i) for i in range(updates)]
    source.close()
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[:, 0], *batches)

    def update(state, numbered):
        i, batch = numbered
        return experiment.step(state, batch, jax.random.fold_in(jax.random.key(1), i))[0], None

    run = jax.jit(lambda state, batches: jax.lax.scan(update, state, batches)[0])
    return jax.device_get(run(state_of(experiment), (np.arange(updates), stacked)))


def differ(a, b):
    """Whether every leaf of two trees differs somewhere."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), a, b)))


def test_every_seed_starts_from_the_runs_encoder_and_its_own_classifier(make, starts):
    experiment = make("convnet", "full")
    saved = files.load(starts("convnet")).variables
    states = [state_of(experiment, seed) for seed in (0, 1)]
    for state in states:
        chex.assert_trees_all_equal(state.params.encoder, saved.params)
        chex.assert_trees_all_equal(state.statistics.encoder, saved.state)
    weights = [state.params.classifier["linear"]["w"] for state in states]
    assert differ(*weights)


def test_from_scratch_takes_the_network_alone(make, starts):
    """The same structure, other weights, for each seed its own."""
    experiment = make("convnet", "full", from_scratch=True)
    saved = files.load(starts("convnet")).variables
    found = [state_of(experiment, seed) for seed in (0, 1)]
    for state in found:
        chex.assert_trees_all_equal_shapes_and_dtypes(state.params.encoder, saved.params)
        # 0 and 1, as in any fresh network.
        chex.assert_trees_all_equal(state.statistics.encoder, saved.state)
    weights = [
        [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]
        for tree in (saved.params, *(state.params.encoder for state in found))
    ]
    assert differ(weights[0], weights[1])
    assert differ(weights[1], weights[2])


def test_a_seed_sees_its_own_few_examples_and_no_others(make):
    """Of 10 classes 2 each: 20 images, which 5 batches of 8 show twice; with their labels."""
    experiment = make("convnet", "full", labels_per_class=2)
    train = experiment.data.train
    source = experiment.source([0, 5])
    batches = [source.next(None, i) for i in range(5)]
    source.close()
    seen = []
    for row, seed in enumerate((0, 5)):
        pool = labeled.few(train.labels, experiment.data.classes, 2, seed)
        expected = Counter((train.inputs[i].tobytes(), int(train.labels[i])) for i in pool)
        shown = Counter(
            (image.tobytes(), int(label))
            for batch in batches
            for image, label in zip(batch.inputs[row], batch.labels[row], strict=True)
        )
        assert shown == {example: 2 * count for example, count in expected.items()}
        seen.append(set(shown))
    assert seen[0] != seen[1]


def test_all_labels_are_as_many_as_there_are(make):
    """An epoch of 1,297 images, 8 at once, ends within batch 163."""
    experiment = make("convnet", "full", labels_per_class=0)
    source = experiment.source([0])
    labels = np.concatenate([source.next(None, i).labels[0] for i in range(163)])
    source.close()
    np.testing.assert_array_equal(
        np.bincount(labels[:1_297]), np.bincount(experiment.data.train.labels)
    )


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_a_frozen_encoder_stays_bit_for_bit(method, make, starts):
    """Its weights and its moving averages; the classifier moves, and with it the adapters."""
    experiment = make("convnet", method)
    saved = files.load(starts("convnet")).variables
    first = state_of(experiment)
    last = trained(experiment)
    chex.assert_trees_all_equal(last.frozen, saved.params)
    chex.assert_trees_all_equal(last.statistics.encoder, saved.state)
    assert last.params.encoder == {}
    assert bool(last.params.adapters) == (method == "lora")
    # The first B is zero, so the first A gets no gradient: of both, something has moved after a few
    # updates.
    assert differ(first.params, last.params)
    assert differ(first.statistics.classifier, last.statistics.classifier)
    merged = experiment.tuned(experiment.learned(last)).encoder
    chex.assert_trees_all_equal(merged.state, saved.state)
    if method == "linear":
        chex.assert_trees_all_equal(merged.params, saved.params)
        return
    for module, leaves in saved.params.items():
        assert ("w" in leaves) == (module in last.params.adapters)
        for name, leaf in leaves.items():
            assert (merged.params[module][name] != leaf).any() == (name == "w")


def test_where_all_of_it_moves_every_part_does(make):
    experiment = make("convnet", "full")
    last = trained(experiment)
    assert last.frozen == {}
    assert last.params.adapters == {}
    assert differ(state_of(experiment).params, last.params)
    assert differ(state_of(experiment).statistics, last.statistics)


def test_low_rank_additions_start_at_nothing(make, starts):
    """Weights and features are the run's, bit for bit."""
    experiment = make("convnet", "lora")
    loaded = files.load(starts("convnet"))
    merged = experiment.tuned(experiment.learned(state_of(experiment))).encoder
    chex.assert_trees_all_equal(merged, loaded.variables)
    images = experiment.data.test.inputs[:3]
    features, _ = experiment.encoder.apply(merged, jnp.asarray(images))
    np.testing.assert_array_equal(features, loaded(images))


def test_additions_are_scaled_by_alpha_over_rank(make):
    """With A and B of ones and rank 2, each weight gains alpha / 2 * 2."""
    experiment = make("convnet", "lora", lora_rank=2, lora_alpha=0.5)
    state = state_of(experiment)
    ones = jax.tree.map(np.ones_like, state.params.adapters)
    params = state.params._replace(adapters=ones)
    merged = experiment.tuned(Learned(params, state.frozen, state.statistics)).encoder
    for module in ones:
        gained = merged.params[module]["w"] - state.frozen[module]["w"]
        np.testing.assert_allclose(gained, 0.5, atol=1e-6)


def test_only_the_classifiers_steps_are_multiplied(make):
    """By 4: a power of two, so exactly. Steps of the encoder stay the same."""
    once = make("convnet", "full", classifier_rate=1.0)
    often = make("convnet", "full", classifier_rate=4.0)
    params = state_of(once).params
    grads = jax.tree.map(np.ones_like, params)
    plain, _ = once.optimizer.update(grads, once.optimizer.init(params), params)
    larger, _ = often.optimizer.update(grads, often.optimizer.init(params), params)
    chex.assert_trees_all_equal(larger.encoder, plain.encoder)
    chex.assert_trees_all_equal(
        larger.classifier, jax.tree.map(lambda step: 4 * step, plain.classifier)
    )


@pytest.mark.parametrize("method", ["full", "linear", "lora"])
def test_what_is_handed_over_gives_the_evaluated_features_and_logits(method, make, tmp_path):
    """The head holds weights and statistics: normalize by the moving averages, then multiply."""
    experiment = make("convnet", method)
    learned = experiment.learned(trained(experiment))
    experiment.hand_over(learned, tmp_path / "encoder" / "seed0.safetensors", {})
    loaded = files.load(tmp_path)
    inputs = experiment.data.test.inputs[:5]
    assert loaded.encoder == experiment.encoder
    features = np.asarray(loaded(inputs))
    tuned = experiment.tuned(learned)
    expected, _ = experiment.encoder.apply(tuned.encoder, jnp.asarray(inputs))
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-6)
    norm = loaded.head["batch_norm"]
    linear = loaded.head["linear"]
    normalized = (features - norm["mean"][None]) / np.sqrt(norm["variance"][None] + 1e-5)
    networks = experiment.networks
    logits, statistics = networks.logits(tuned, jnp.asarray(inputs), False, False)
    np.testing.assert_allclose(
        normalized @ linear["w"] + linear["b"][None], logits, rtol=1e-3, atol=1e-3
    )
    chex.assert_trees_all_equal(statistics, learned.statistics)


def test_the_classifier_normalizes_by_the_batch_and_gathers_its_averages(make):
    """From 0 and 1 with a decay of 0.9: mean 0.1 m, variance 0.9 + 0.1 v of the batch's."""
    experiment = make("convnet", "linear")
    tuned = experiment.tuned(experiment.learned(state_of(experiment)))
    images = jnp.asarray(experiment.data.train.inputs[:40])
    features = np.asarray(experiment.encoder.apply(tuned.encoder, images)[0], np.float64)
    logits, statistics = experiment.networks.logits(tuned, images, False, True)
    mean = features.mean(axis=0)
    variance = features.var(axis=0)
    linear = tuned.classifier.params["linear"]
    normalized = (features - mean[None]) / np.sqrt(variance[None] + 1e-5)
    expected = normalized @ linear["w"] + linear["b"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    found = statistics.classifier["batch_norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["variance"], 0.9 + 0.1 * variance, rtol=1e-4, atol=1e-5)


def test_loss_by_hand(make):
    """Of weights zero and biases (ln 3, 0, ..., 0) the softmax is (3, 1, ..., 1) / 12, always.

    Labels 0, 0, 0, 4: the loss is -(3 ln(3 / 12) + ln(1 / 12)) / 4, and 3 of 4 are right.
    """
    experiment = make("convnet", "linear")
    state = state_of(experiment)
    weights = np.zeros_like(state.params.classifier["linear"]["w"])
    biases = np.log(np.array([3.0] + [1.0] * 9, np.float32))
    params = state.params._replace(classifier={"linear": {"w": weights, "b": biases}})
    images = jnp.asarray(experiment.data.train.inputs[:4])
    labels = jnp.array([0, 0, 0, 4])
    loss, (_, accuracy) = experiment.loss(params, state.frozen, state.statistics, images, labels)
    assert loss == pytest.approx(-(3 * np.log(3 / 12) + np.log(1 / 12)) / 4, rel=1e-5)
    assert accuracy == 0.75


def test_layer_decay_scales_each_layers_step_by_hand(make):
    """1 block, decay 0.5: it moves half of what it does without, embeddings 0.5^2.

    Several blocks are scaled in the tests of optimizers.
    """
    whole = make("text", "full")
    halved = make("text", "full", layer_decay=0.5)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(whole.init, jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f"), shapes)
    grads = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f"), shapes)
    plain, _ = whole.optimizer.update(grads, whole.optimizer.init(params), params)
    small, _ = halved.optimizer.update(grads, halved.optimizer.init(params), params)
    assert differ(plain, jax.tree.map(jnp.zeros_like, plain))
    chex.assert_trees_all_equal(small.classifier, plain.classifier)
    factors = {"/block/": 0.5, "/transformer/norm": 1.0, "/embed/": 0.5**2}
    for module, leaves in plain.encoder.items():
        (factor,) = (factor for part, factor in factors.items() if part in f"{module}/")
        for name, leaf in leaves.items():  # a power of two: exact
            np.testing.assert_array_equal(
                small.encoder[module][name], leaf * np.float32(factor), module
            )


def test_evaluation_in_batches_equals_evaluation_at_once(make, monkeypatch):
    """Of 500 images, 150 at once: the last batch has 50.

    The accuracy is the share of labels that are met.
    """
    experiment = make("convnet", "full")
    learned = experiment.learned(trained(experiment))
    monkeypatch.setattr(finetune, "_TESTED", 150)
    test = experiment.data.test
    scores = experiment.evaluation.scores(learned, jax.random.key(0), True)
    assert scores == {
        experiment.evaluation.headline.name: pytest.approx(
            np.mean(guesses_of(experiment, learned) == test.labels)
        )
    }


def guesses_of(experiment, learned):
    """The classes [N] of all test examples, at once."""
    inputs = jnp.asarray(experiment.data.test.inputs)
    logits, _ = experiment.networks.logits(experiment.tuned(learned), inputs, False, False)
    return np.argmax(logits, axis=1)


def test_the_baseline_names_the_commonest_class(make):
    experiment = make("convnet", "full")
    ((_, count),) = Counter(experiment.data.test.labels.tolist()).most_common(1)
    assert experiment.evaluation.baselines(jax.random.key(0)) == {
        "baseline/commonest_accuracy": pytest.approx(count / 500)
    }


def test_the_picture_is_of_the_test_split(make, tmp_path, monkeypatch):
    experiment = make("convnet", "full")
    drawn = []
    monkeypatch.setattr(
        finetune.pictures_of_features, "confusion", lambda *arguments: drawn.append(arguments)
    )
    learned = experiment.learned(trained(experiment))
    experiment.evaluation.pictures(learned, 0, tmp_path)
    ((labels, guesses, classes, path),) = drawn
    np.testing.assert_array_equal(labels, experiment.data.test.labels)
    np.testing.assert_array_equal(guesses, guesses_of(experiment, learned))
    assert classes == tuple("0123456789")
    assert path == tmp_path / "confusion.png"


def test_rows_share_all_but_their_numbers(make, starts):
    """Resources are the same whatever the numbers of a row: poisoned ones change nothing."""
    plain = options.make(Config, init_from=starts("convnet"), method="lora")
    assert {"lora-alpha", "classifier-rate", "optimizer.learning-rate"} <= set(
        options.number_names(Config)
    )
    poisoned = options.with_numbers(plain, np.full_like(options.numbers(plain), np.nan))
    one = Finetune(plain, Finetune.resources(plain))
    other = Finetune(plain, Finetune.resources(poisoned))
    learned = one.learned(state_of(one))
    key = jax.random.key(0)
    assert one.evaluation.scores(learned, key, True) == other.evaluation.scores(learned, key, True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("cifar10", "there", 0)),
        ({"data_dir": "here"}, ("cifar10", "here", 0)),  # the same data, which have moved
        ({"data": "imagenet", "data_dir": "here", "image_size": 32}, ("imagenet", "here", 32)),
        ({"data": "digits"}, ("digits", "", 0)),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_data_are_the_runs_unless_they_are_given(grouped, given, expected, tmp_path, monkeypatch):
    """Whether they are options of the run's own, or of a group in its configuration."""
    encoder = ImageEncoder("convnet", (32, 32, 3), (0.5,) * 3, (0.2,) * 3)
    images = {"data": "cifar10", "data_dir": "there", "image_size": 0}
    facts = {"config": {"updates": 3, "images": images} if grouped else images}
    files.save(tmp_path / "one.safetensors", encoder, blank(encoder), facts)
    some = labeled.Examples(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2, dtype=np.int32))
    asked = []
    answer = labeled.Labeled(some, some, ("a", "b"), "digest")
    monkeypatch.setattr(labeled, "images", lambda *places: asked.append(places) or answer)
    Finetune.resources(options.make(Config, init_from=str(tmp_path / "one.safetensors"), **given))
    assert asked == [expected]


@pytest.mark.parametrize(
    ("start", "changed", "named"),
    [
        (None, {}, "--exp=finetune needs --init-from"),
        (None, {"from_scratch": True}, "--exp=finetune needs --init-from"),
        (None, {"init_from": "no/such/run"}, "no/such/run is no folder of a run"),
        (None, {"init_from": "another"}, "another holds no encoder: it is of another kind"),
        (None, {"init_from": "silent.safetensors"}, "does not tell what it has learned from; give"),
        (None, {"init_from": "lying.safetensors"}, "does not tell what it has learned from; give"),
        ("convnet", {"data": "stdlib"}, "holds an encoder of images, but --data=stdlib is text"),
        ("text", {"data": "digits"}, "holds an encoder of text, but --data=digits is images"),
        ("narrow", {"data": "photos"}, "holds an encoder of images (8, 8, 1) (height, width, "
                                       "channels); those of --data=photos are (32, 32, 3)"),
        ("narrow", {}, "those of --data=digits are (16, 16, 1)"),
        ("text", {"data": "topics"}, "--data=topics has no classes to tell apart"),
        ("convnet", {"data": "npz:plain.npz"}, "--data=npz:plain.npz has no labels"),
        ("convnet", {"labels_per_class": -1}, "--labels-per-class is -1; it must be at least 0"),
        ("convnet", {"labels_per_class": 2_000}, "--labels-per-class=2000, but class 0 has "),
        ("convnet", {"layer_decay": 0.0}, "--layer-decay is 0.0; it must be above 0, at most 1"),
        ("convnet", {"layer_decay": 1.5}, "--layer-decay is 1.5; it must be above 0, at most 1"),
        ("convnet", {"layer_decay": 0.5}, "is 0.5, but the encoder is no transformer"),
        ("vit", {"layer_decay": 0.5, "method": "linear"}, "is for --method=full; with linear"),
        ("vit", {"layer_decay": 0.5, "method": "lora"}, "is for --method=full; with lora"),
        ("convnet", {"lora_rank": 0}, "--lora-rank is 0; it must be at least 1"),
        ("convnet", {"lora_alpha": 0.0}, "--lora-alpha is 0.0"),
        ("convnet", {"updates": 0}, "--updates is 0"),
        ("convnet", {"batch_size": 0}, "--batch-size is 0"),
        ("vit", {"batch_size": 1}, "--batch-size is 1, but features are normalized over the batch"),
        ("convnet", {"views": {"flip": 2.0}}, "--views.flip is 2.0"),
        ("convnet", {"optimizer": {"warmup": 2.0}}, "--optimizer.warmup is 2.0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_run_are_refused_by_name(
    start, changed, named, starts, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").write_text('{"exp": "dqn"}')
    text = ENCODERS["text"]
    for name, config in CONFIGS.items():
        files.save(tmp_path / f"{name}.safetensors", text, blank(text), {"config": config})
    np.savez("plain.npz", images=np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
    with pytest.raises(UserError) as refused:
        built(**{"init_from": starts(start) if start else ""} | changed).source([0])
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_learns_to_tell_texts_apart(make, starts, tmp_path):
    """A third of the passages is of the commonest class.

    The words of each are nearly all told after 60 updates. A run that starts from what is handed
    over starts from what was learned.
    """
    experiment = make("text", "full", updates=60, batch_size=32, optimizer=Config().optimizer)
    evaluation = experiment.evaluation
    key = jax.random.key(0)
    learned = experiment.learned(trained(experiment, 60))
    assert evaluation.baselines(key)["baseline/commonest_accuracy"] < 0.5
    assert evaluation.scores(learned, key, True)["eval/accuracy"] > 0.9
    path = tmp_path / "encoder" / "seed0.safetensors"
    experiment.hand_over(learned, path, {"config": {"data": ""}})
    chex.assert_trees_all_equal(files.load(tmp_path).variables, experiment.tuned(learned).encoder)
    assert differ(files.load(starts("text")).variables.params, learned.params.encoder)


def test_a_language_model_learns_it_too(make, starts):
    """From what reads from left to right, and with low-rank additions alone."""
    experiment = make("causal", "full", updates=60, batch_size=32, optimizer=Config().optimizer)
    learned = experiment.learned(trained(experiment, 60))
    scores = experiment.evaluation.scores(learned, jax.random.key(0), True)
    assert scores["eval/accuracy"] > 0.7
    narrow = make("causal", "lora", lora_rank=2)
    saved = files.load(starts("causal")).variables.params
    assert narrow.learned(trained(narrow)).params.adapters.keys() == {
        module for module, leaves in saved.items() if "w" in leaves
    }
