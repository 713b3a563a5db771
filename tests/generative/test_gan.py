"""The game: each network moves by its own gradient, averages and albums are exact, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from missing_bits import options
from missing_bits.data.load import ImagesOrPoints
from missing_bits.errors import UserError
from missing_bits.generative import gan, generators
from missing_bits.generative.gan import GAN, Config, Learned
from missing_bits.loop.family import Family
from missing_bits.loop.parallel import Layout
from missing_bits.nets import spectral

RING = {
    "data": "ring",
    "network": "mlp",
    "generator_norm": "none",
    "width": 4,
    "discriminator_width": 4,
    "latent": 2,
    "batch_size": 8,
    "updates": 30,
    "eval_samples": 200,
}


def make(base=gan.TINY, **changed):
    """The method with small settings, but for what is changed, as the loop makes it."""
    config = options.make(Config, **base | changed)
    options.check(config)
    GAN.check(config)
    return GAN(config, GAN.resources(config))


@functools.cache
def shared():
    return make()


def inputs(experiment, seed=0):
    """A state, a batch, and what a step draws by a key."""
    state = experiment.init(jax.random.key(seed))
    batch = None
    if experiment.is_image:
        source = experiment.source([seed])
        batch = jax.tree.map(lambda x: x[0], source.next(None, 0))
        source.close()
    return state, batch


def same(tree, other):
    return all(
        (np.asarray(a) == np.asarray(b)).all()
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    )


def with_rates(experiment, generator, discriminator):
    """The method whose optimizers are plain descent, by a rate for each network."""
    experiment.optimizers = gan.Networks(*map(gan.optax.sgd, (generator, discriminator)))
    return experiment


@pytest.mark.parametrize("loss", ["minimax", "non_saturating", "hinge", "wgan_gp"])
def test_each_network_moves_by_the_gradient_of_its_own_loss_alone(loss):
    """As written out here, from the networks before the update, on the images of one draw."""
    experiment = make(RING, loss=loss, r1=loss != "wgan_gp", latent_scale=2.0)
    experiment = with_rates(experiment, 0.1, 0.2)
    state, _ = inputs(experiment)
    state = state._replace(
        opt_state=gan.Networks(
            *(move.init(p) for move, p in zip(experiment.optimizers, state.params, strict=True))
        )
    )
    key = jax.random.key(7)
    new, _ = jax.jit(experiment.step)(state, None, key)

    z_key, share_key, real_key, _ = jax.random.split(key, 4)
    z = jax.random.normal(z_key, (8, 2))
    share = jax.random.uniform(share_key, (8,))[:, None, None, None]
    real = experiment.resources.data.draw(real_key, 8)[:, None, None, :]
    made, judges = experiment.generator, experiment.discriminator

    def score(params, x):
        return judges.apply(params, {}, None, x, None)[0]

    def slopes(params, x):
        gradients = jax.vmap(jax.grad(lambda one: score(params, one[None])[0]))(x)
        return jnp.sum(jnp.square(gradients), axis=(1, 2, 3))

    def fake(params):
        plain = dataclasses.replace(made, latent_scale=1.0)
        return plain.apply(generators.Variables(params, {}), 2 * z)[0]

    def of_discriminator(params):
        images = jax.lax.stop_gradient(fake(state.params.generator))
        a, b = score(params, real), score(params, images)
        if loss == "wgan_gp":
            lengths = jnp.sqrt(slopes(params, share * real + (1 - share) * images))
            return jnp.mean(b) - jnp.mean(a) + 10 * jnp.mean((lengths - 1) ** 2)
        penalty = jnp.mean(slopes(params, real)) / 2
        if loss == "hinge":
            return jnp.mean(jnp.maximum(0, 1 - a)) + jnp.mean(jnp.maximum(0, 1 + b)) + penalty
        return -jnp.mean(jnp.log(jax.nn.sigmoid(a)) + jnp.log(1 - jax.nn.sigmoid(b))) + penalty

    def of_generator(params):
        b = score(state.params.discriminator, fake(params))
        told = {
            "minimax": jnp.log(1 - jax.nn.sigmoid(b)),
            "non_saturating": -jnp.log(jax.nn.sigmoid(b)),
        }
        return jnp.mean(told.get(loss, -b))

    for rate, objective, before, after in (
        (0.1, of_generator, state.params.generator, new.params.generator),
        (0.2, of_discriminator, state.params.discriminator, new.params.discriminator),
    ):
        expected = jax.tree.map(
            lambda p, g, rate=rate: p - rate * g, before, jax.jit(jax.grad(objective))(before)
        )
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert not same(before, after)


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_a_network_that_does_not_move_leaves_the_other_its_way(still):
    """The other's update is the same whether or not this one moves: neither sees the other's."""
    rates = {"generator": 0.1, "discriminator": 0.1}
    states = []
    for rate in (0.1, 0.0):
        experiment = with_rates(make(RING), **(rates | {still: rate}))
        state, _ = inputs(experiment)
        opt_state = gan.Networks(
            *(move.init(p) for move, p in zip(experiment.optimizers, state.params, strict=True))
        )
        new, _ = jax.jit(experiment.step)(
            state._replace(opt_state=opt_state), None, jax.random.key(1)
        )
        states.append(new)
        rests = same(getattr(state.params, still), getattr(new.params, still))
        assert rests == (rate == 0)
    other = "discriminator" if still == "generator" else "generator"
    assert same(getattr(states[0].params, other), getattr(states[1].params, other))


def test_the_moving_average_is_exact():
    """Of the parameters 1, 2, 3 after the start 0, with the shares 1/10, 2/11 and 0.2 of 3/12."""
    experiment = make(RING, average=0.2)
    state, _ = inputs(experiment)
    average = jax.tree.map(jnp.zeros_like, state.average)
    expected = 0.0
    for count, kept in enumerate((1 / 10, 2 / 11, 0.2)):
        new = jax.tree.map(lambda p, count=count: jnp.full_like(p, count + 1), average)
        average = experiment.moved(average, new, jnp.int32(count))
        expected = kept * expected + (1 - kept) * (count + 1)
    for leaf in jax.tree.leaves(average):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)


def test_the_weight_of_r1_falls_as_a_cosine():
    """From 2 to 0.25 times 2: 1.25 at the middle, and a constant by default."""
    falling = make(RING, r1_weight=2.0, r1_end=0.25)
    found = [float(falling.r1_weight(jnp.int32(count))) for count in (0, 15, 30)]
    assert found == pytest.approx([2, 1.25, 0.5])
    constant = make(RING, r1_weight=2.0)
    assert float(constant.r1_weight(jnp.int32(17))) == pytest.approx(2)


def test_what_is_learned_is_the_average():
    experiment = make(RING)
    state, _ = inputs(experiment)
    new, _ = jax.jit(experiment.step)(state, None, jax.random.key(1))
    assert same(experiment.learned(new).average, new.average)
    assert not same(new.average.params, new.params.generator)


def test_the_album_is_of_the_average():
    experiment = make(RING, updates=2)
    state, _ = inputs(experiment)
    step = jax.jit(experiment.step)
    averages = []
    for update in range(2):
        state, _ = step(state, None, jax.random.key(update))
        averages.append(state.average)
    np.testing.assert_array_equal(state.album.updates, [1, 2])
    z = jax.random.normal(jax.random.key(0), (500, 2))
    for frame, average in zip(state.album.frames, averages, strict=True):
        expected = experiment.generator.generate(average, z)
        np.testing.assert_allclose(frame, expected, atol=1e-5)


def test_batch_statistics_of_real_and_generated_images_are_not_mixed():
    """Real logits stay what they are whatever is generated."""
    experiment = make(discriminator_norm="batch", r1=False)
    state, batch = inputs(experiment)
    real, _ = experiment.real(batch, jax.random.key(0))
    shares = jnp.zeros(len(real))
    loss = jax.jit(experiment.discriminator_loss)
    told = [
        loss(state.params.discriminator, state, real, fake, None, shares)
        for fake in (0 * real, -real)
    ]
    np.testing.assert_array_equal(told[0][1].real, told[1][1].real)
    assert np.abs(told[0][1].fake - told[1][1].fake).max() > 1e-3


def test_distortions_reach_both_kinds_of_images():
    plain, distorted = make(), make(augmentation=("cutout",))
    state, batch = inputs(plain)
    keys = jax.random.split(jax.random.key(3), 16)
    z = jax.random.normal(jax.random.key(4), (16, 4))
    for experiment, is_cut in ((plain, False), (distorted, True)):
        real, _ = experiment.real(batch, jax.random.key(0))
        made = experiment.generate(state.params.generator, {}, z, None, keys).x
        for x in (real, made):
            assert (np.mean(x == 0) > 0.05) == is_cut


def test_classes_are_generated_from_their_labels():
    """And the discriminator learns from the labels of its images, as they come."""
    experiment = make(conditional=True)
    state, batch = inputs(experiment)
    train = experiment.resources.data.train
    for image, label in zip(batch.images, batch.labels, strict=True):
        assert label in train.labels[(train.images == image[None]).all(axis=(1, 2, 3))]
    assert len(set(batch.labels.tolist())) > 1
    z = jnp.ones((2, 4))
    images = experiment.generator.generate(state.average, z, jnp.array([3, 5]))
    assert np.abs(images[0] - images[1]).max() > 1e-3
    new, _ = jax.jit(experiment.step)(state, batch, jax.random.key(1))
    before, after = (
        p.discriminator["discriminator/classes"]["w"] for p in (state.params, new.params)
    )
    moved = np.abs(after - before).max(axis=1) > 0
    assert set(np.flatnonzero(moved)) == set(np.unique(batch.labels).tolist())


def test_spectral_normalization_holds_the_discriminator():
    """Its slope is at most the product of its layers' norms, all 1, whatever its parameters."""
    experiment = make(RING, discriminator_norm="spectral", r1=False)
    state, _ = inputs(experiment)
    vectors = state.vectors
    params = jax.tree.map(lambda p: 9 * p, state.params.discriminator)
    for _ in range(100):
        normalized, vectors = spectral.normalize(params, vectors)

    def score(x):
        return experiment.discriminator.apply(normalized, {}, None, x[None, None, None], None)[0][0]

    points = jax.random.normal(jax.random.key(0), (50, 2))
    slopes = jnp.linalg.norm(jax.vmap(jax.grad(score))(points), axis=1)
    assert slopes.max() <= 1.001
    new, _ = jax.jit(experiment.step)(state, None, jax.random.key(1))
    assert not same(state.vectors, new.vectors)


def test_both_losses_are_of_the_normalized_discriminator():
    """The lengths of its weights change neither the generator's loss nor its own."""
    experiment = make(RING, discriminator_norm="spectral", r1=False)
    state, _ = inputs(experiment)
    key = jax.random.key(2)
    z = jax.random.normal(key, (8, 2))
    real, _ = experiment.real(None, key)
    keys = jax.random.split(key, 8)
    long = {
        name: {leaf: 7 * p if leaf == "w" else p for leaf, p in leaves.items()}
        for name, leaves in state.params.discriminator.items()
    }
    told = []
    for params in (state.params.discriminator, long):
        now = state._replace(params=state.params._replace(discriminator=params))
        making, _ = experiment.generator_loss(state.params.generator, now, z, None, keys)
        judging, _ = experiment.discriminator_loss(params, now, real, -real, None, keys)
        told.append((making, judging))
    np.testing.assert_allclose(told[0], told[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"latent": 0}, "--latent is 0"),
        ({"latent": 10**9}, "--latent is 1000000000"),
        ({"discriminator_width": 10**6}, "--discriminator-width is 1000000"),
        ({"updates": 0}, "--updates is 0"),
        ({"latent_scale": 0.0}, "--latent-scale is 0.0; it must be above 0"),
        ({"latent_scale": 1e6}, "--latent-scale is 1000000.0"),
        ({"average": 1.0}, "--average is 1.0"),
        ({"r1_weight": -1.0}, "--r1-weight is -1.0"),
        ({"discriminator_rate": 0.0}, "--discriminator-rate is 0.0"),
        (
            {"batch_size": 1, "generator_norm": "batch"},
            "--batch-size is 1, but a network normalizes",
        ),
        ({"discriminator_norm": "batch"}, "--r1 penalizes the slope of each image's logit"),
        (
            {"discriminator_norm": "batch", "r1": False, "loss": "wgan_gp"},
            "--loss=wgan_gp penalizes the slope of each image's logit",
        ),
        ({"loss": "wgan_gp"}, "--loss=wgan_gp has a penalty of its own"),
        ({"data": "npz:plain.npz", "conditional": True}, "--conditional needs labels"),
        ({"data": "ring", "conditional": True}, "--conditional needs labels, but --data=ring"),
        ({"data": "ring", "network": "conv"}, "--data=ring are points; take --network=mlp"),
        ({"data": "grid", "augmentation": ("color",)}, "--augmentation is for images"),
        ({"data": "grid", "data_dir": "there"}, "--data-dir=there is for"),
        ({"data": "ring", "image_size": 8}, "--image-size=8 is for images, but --data=ring"),
        ({"data": "rings"}, "--data=rings is not a set of images or points. Did you mean ring?"),
        ({"data": "topics"}, "--data=topics is text, not a set of images"),
        ({"eval_samples": 3}, "--eval-samples is 3"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("plain.npz", images=np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
    with pytest.raises(UserError, match=named):
        make(**changed)


def test_presets_are_of_sets_that_exist():
    for name, preset in gan.PRESETS.items():
        ImagesOrPoints(name).check("")
        GAN.check(options.make(Config, data=name, **preset))


def test_the_average_is_handed_over(tmp_path):
    experiment = make(conditional=True)
    state, batch = inputs(experiment)
    new, _ = jax.jit(experiment.step)(state, batch, jax.random.key(1))
    learned = jax.device_get(experiment.learned(new))
    experiment.hand_over(learned, tmp_path / "seed0.safetensors", {"exp": "gan"})
    loaded = generators.load(tmp_path / "seed0.safetensors")
    assert same(loaded.variables, new.average)
    assert loaded.card["classes"] == list("0123456789")
    z = np.ones((3, 4), np.float32)
    labels = np.array([1, 2, 3])
    expected = experiment.generator.generate(new.average, z, labels)
    np.testing.assert_allclose(loaded(z, labels), expected, atol=1e-6)


def test_points_are_judged_by_modes_and_drawn(tmp_path):
    experiment = make(RING, batch_size=4)
    state, _ = inputs(experiment)
    step = jax.jit(experiment.step)
    for update in range(3):
        state, _ = step(state, None, jax.random.key(update))
    learned = jax.device_get(experiment.learned(state))
    scores = experiment.evaluation.scores(learned, jax.random.key(0), True)
    assert set(scores) == {
        "eval/modes",
        "eval/share_near",
        "eval/mode_deviation",
        "eval/mode_kl",
    }
    true = experiment.evaluation.baselines(jax.random.key(0))
    assert true["baseline/true_share_near"] > 0.97
    experiment.evaluation.pictures(learned, 0, tmp_path)
    with Image.open(tmp_path / "samples_over_training.gif") as picture:
        assert picture.n_frames == 2  # of 20 in 30 updates, after 3


@pytest.mark.parametrize("network", ["conv", "mlp"])
def test_generated_images_are_made_once_for_both_losses(network):
    """The compiler finds that both ask for the same: as many products as the game needs.

    For each layer of G one on the way forward, one to its weights and one to its input, the first
    but this. For each of D two on the way forward, for real and generated images, two to its
    weights, two to its inputs, the first but these, and one to its input for the loss of G. The
    frame of the album takes one more for each layer of G.
    """
    experiment = make(network=network, r1=False, batch_size=8)
    state, batch = inputs(experiment)
    batch = jax.tree.map(lambda x: x[:8], batch)
    text = jax.jit(experiment.step).lower(state, batch, jax.random.key(0)).compile().as_text()
    found = text.count(" convolution(") + text.count(" dot(")
    made = sum("w" in leaves for leaves in state.params.generator.values())
    judges = sum("w" in leaves for leaves in state.params.discriminator.values())
    game = 3 * made - 1 + (2 + 2 + 2 + 1) * judges - 2
    assert judges < found <= game + made


def test_it_finds_the_ring(optimized):
    """Where an untrained generator's points lie about the origin, and miss whole modes."""
    updates = 800
    settings = {
        **gan.PRESETS["ring"],
        **{"data": "ring", "updates": updates, "r1_weight": 1e-2},
        "optimizer": {"learning_rate": 3e-3, "momentum": 0.5},
    }
    config = options.make(Config, **settings)
    family = Family(GAN, [config], GAN.resources(config))
    experiment = family.first
    layout = Layout([0], 1)
    running = layout.init(family, None)
    found = []
    for count in (0, updates):
        running, _ = layout.updates(family, None)(running, {}, None, 0, count)
        (learned,) = layout.learned(experiment, running)
        assert isinstance(learned, Learned)
        z = jax.random.normal(jax.random.key(0), (1_000, config.latent))
        points = experiment.generator.generate(learned.average, z).reshape(-1, 2)
        on_ring = np.abs(np.linalg.norm(points, axis=1) - 1) < 0.2
        scores = experiment.evaluation.scores(learned, jax.random.key(1), True)
        found.append((on_ring.mean(), scores["eval/mode_kl"]))
    (before, kl_before), (after, kl_after) = found
    assert before < 0.3
    assert after > 0.8
    assert kl_after < 0.1 < kl_before
