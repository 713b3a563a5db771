"""Barlow Twins: the loss by hand and by its invariances, devices, presets, and that it learns."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits import collectives, optimizers, options
from missing_bits.data.images import ImageSet, Split
from missing_bits.data.load import Images
from missing_bits.errors import UserError
from missing_bits.eval import knn
from missing_bits.eval.probes import Probes
from missing_bits.ssl import barlow_twins
from missing_bits.ssl.barlow_twins import BarlowTwins, Config, correlation, objective


def loss(z_a, z_b, off_diagonal=0.0051):
    return float(sum(objective(correlation(jnp.asarray(z_a), jnp.asarray(z_b)), off_diagonal)))


def embeddings(seed, rows=16, width=5):
    return tuple(
        np.random.default_rng((seed, i)).normal(size=(rows, width)).astype(np.float32)
        for i in range(2)
    )


def test_loss_by_hand():
    """Views and their products, small enough to be written down.

    Standardized, z_a is [1, 1], [-1, 1], [1, -1], [-1, -1] and z_b the same but for its second
    column's sign. Hence C = [[1, 0], [0, -1]]: (1 - 1)^2 + (1 + 1)^2 = 4 on the diagonal, nothing
    off it. With the columns of z_b swapped C = [[0, 1], [1, 0]]: 1 + 1 on the diagonal and lambda
    (1 + 1) off it.
    """
    z_a = np.array([[3, 1], [1, 1], [3, -1], [1, -1]], np.float32)
    z_b = np.array([[10, -4], [0, -4], [10, 2], [0, 2]], np.float32)
    np.testing.assert_allclose(
        correlation(jnp.asarray(z_a), jnp.asarray(z_b)), [[1, 0], [0, -1]], atol=1e-6
    )
    assert loss(z_a, z_b) == pytest.approx(4, abs=1e-5)
    assert loss(z_a, z_a[:, ::-1], 0.25) == pytest.approx(2 + 0.25 * 2, abs=1e-5)


def test_loss_equals_the_published_formula_on_arbitrary_values():
    """The sums of equation 1 written out in float64."""
    z_a, z_b = embeddings(3, rows=7, width=4)
    a, b = ((z - z.mean(0)) / z.std(0) for z in (z_a.astype(float), z_b.astype(float)))
    expected = 0.0
    for i in range(4):
        for j in range(4):
            c_ij = sum(a[n, i] * b[n, j] for n in range(7)) / 7
            expected += (1 - c_ij) ** 2 if i == j else 0.0051 * c_ij**2
    assert loss(z_a, z_b) == pytest.approx(expected, rel=1e-5)


def test_identical_decorrelated_views_have_no_loss():
    """Columns of a Hadamard matrix have mean 0 and are orthogonal: C is the identity exactly."""
    z = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], np.float32)
    assert loss(z, z) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_invariances(seed):
    rng = np.random.default_rng(seed)
    z_a, z_b = embeddings(seed)
    rows, columns = rng.permutation(16), rng.permutation(5)
    scale, offset = (
        rng.uniform(0.1, 10, 5).astype(np.float32),
        rng.normal(size=5).astype(np.float32),
    )
    base = loss(z_a, z_b)
    assert loss(z_a[rows], z_b[rows]) == pytest.approx(base, rel=1e-4)
    assert loss(z_a * scale + offset, z_b) == pytest.approx(base, rel=1e-4)
    assert loss(z_a, z_b * scale + offset) == pytest.approx(base, rel=1e-4)
    assert loss(z_a[:, columns], z_b[:, columns]) == pytest.approx(base, rel=1e-4)
    assert loss(z_b, z_a) == pytest.approx(base, rel=1e-4)


def test_correlation_is_float32_of_bfloat16_embeddings():
    z_a, z_b = (jnp.asarray(z, jnp.bfloat16) for z in embeddings(0, rows=512))
    c = correlation(z_a, z_b)
    assert c.dtype == jnp.float32
    np.testing.assert_allclose(
        c, correlation(z_a.astype(jnp.float32), z_b.astype(jnp.float32)), atol=1e-6
    )


def test_a_constant_feature_gives_no_nan():
    z_a, z_b = embeddings(0)
    z_a[:, 2] = 4.0
    gradient = jax.grad(lambda z: sum(objective(correlation(z, jnp.asarray(z_b)), 0.1)))(
        jnp.asarray(z_a)
    )
    assert bool(jnp.isfinite(gradient).all())


COLLAPSED = np.random.default_rng(7).uniform(-1, 1, (1, 32)).astype(np.float32)


@pytest.mark.parametrize("magnitude", [0.0, 1e-3, 0.1, 1.0, 3.7, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("rows", [128, 1000])
def test_a_collapse_costs_all_of_the_invariance_at_every_magnitude(magnitude, rows, optimized):
    """The same embedding for all images says nothing of them: C is 0, and the loss D = 32.

    The mean over a batch is rounded; that must not pass for a deviation in which views agree.
    """
    z = np.repeat(magnitude * COLLAPSED, rows, axis=0)
    assert loss(z, z) == pytest.approx(32, rel=1e-3)
    assert loss(z, 1.5 * z) == pytest.approx(32, rel=1e-3)


@pytest.mark.parametrize("magnitude", [0.1, 3.7, 1e6])
def test_a_collapse_over_all_devices_is_one_too(magnitude):
    z = jnp.asarray(np.repeat(magnitude * COLLAPSED, 128, axis=0)).reshape(4, 32, 32)

    def one(z):
        return sum(objective(correlation(z, z), 0.0051))

    found = jax.pmap(one, collectives.AXIS, devices=jax.devices()[:4])(z)
    np.testing.assert_allclose(found, 32, rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_the_loss_is_blind_to_scale(scale):
    z_a, z_b = embeddings(6)
    assert loss(scale * z_a, z_b) == pytest.approx(loss(z_a, z_b), rel=1e-4)


@pytest.mark.parametrize("devices", [2, 4])
def test_loss_and_gradients_are_of_the_batch_of_all_devices(devices):
    z = jnp.stack([jnp.asarray(a) for a in embeddings(5)])  # [2, 16, 5]

    def one(z):
        return sum(objective(correlation(z[0], z[1]), 0.0051))

    def shared(z):
        value, grads = jax.value_and_grad(one)(z)
        return (
            value,
            grads / collectives.size(),
        )  # the loss's psum hands every device the sum over devices

    split = jnp.moveaxis(z.reshape(2, devices, -1, 5), 1, 0)
    values, grads = jax.pmap(shared, collectives.AXIS, devices=jax.devices()[:devices])(split)
    value, grad = jax.value_and_grad(one)(z)
    np.testing.assert_allclose(values, value, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.moveaxis(grads, 0, 1).reshape(z.shape), grad, rtol=1e-4, atol=1e-6
    )


TINY = options.make(Config, data="digits", updates=10, batch_size=16, projector_sizes=(32, 32))


@pytest.fixture(scope="module")
def method(build):
    return build(BarlowTwins, TINY)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_published_recipes_make_a_step_of_the_right_shape(name, monkeypatch):
    """On stand-in images of the real size, traced and not run; the schedule is as published."""
    side, batch, rate, warmup = {
        "cifar10": (32, 256, 0.3, 1_953),
        "imagenet": (224, 2048, 1.6, 6_255),
    }[name]
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    split = Split(images, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(Images, "load", lambda _: ImageSet(split, split, tuple("abcd"), "digest"))
    config = options.make(Config, data=name, **barlow_twins.PRESETS[name])
    BarlowTwins.check(config)
    method = BarlowTwins(config, BarlowTwins.resources(config))
    assert config.batch_size == batch
    key, batches = jax.random.key(0), jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    state = jax.eval_shape(method.init, key)
    after, metrics = jax.eval_shape(method.step, state, Split(batches, None), key)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert metrics["train/loss"].shape == ()
    schedule = optimizers.schedule(config.optimizer, config.updates)
    assert schedule(warmup) == pytest.approx(rate, rel=1e-3)
    assert schedule(config.updates) == pytest.approx(rate / 1000, rel=1e-3)


def test_initializing_from_a_run_takes_its_encoder(method, build, tmp_path):
    init = jax.jit(method.init)
    learned = jax.device_get(method.learned(init(jax.random.key(1))))
    method.hand_over(learned, tmp_path / "encoder" / "seed1.safetensors", {})
    second = build(BarlowTwins, options.replace(TINY, {"init_from": str(tmp_path)}))
    state = jax.jit(second.init)(jax.random.key(2))
    fresh = init(jax.random.key(2))
    chex.assert_trees_all_equal(state.params.encoder, learned.params.encoder)
    chex.assert_trees_all_equal(state.statistics.encoder, learned.statistics.encoder)
    chex.assert_trees_all_equal(state.params.projector, fresh.params.projector)


def test_no_label_reaches_the_update(method):
    source = method.source([0])
    assert source.next(None, 0).labels is None
    source.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 1}, "--batch-size is 1"),
        ({"batch_size": 100_000}, "--batch-size"),
        ({"projector_sizes": ()}, "--projector-sizes is empty"),
        ({"off_diagonal": 0.0}, "--off-diagonal"),
        ({"views": {"flip": 1.5}}, "--views.flip"),
        ({"optimizer": {"learning_rate": -1.0}}, "--optimizer.learning-rate"),
        ({"init_from": "no/such/run"}, "no/such/run"),
        ({"data": "npz:no/such/file.npz"}, "no/such/file.npz"),
        ({"network": "vit_tiny", "data": "npz:odd.npz"}, "patches"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (40, 30, 30, 3), np.uint8)
    np.savez("odd.npz", images=images)
    with pytest.raises(UserError, match=named):
        build(BarlowTwins, options.replace(TINY, changed)).source([0])


def test_it_learns_photos_beyond_raw_pixels_and_a_random_encoder(build, trained, optimized):
    """Two hundred updates of half the size, where the default run makes a thousand."""
    sizes = {"updates": 200, "batch_size": 64, "projector_sizes": (256, 256)}
    method = build(BarlowTwins, options.make(Config, data="photos", **sizes))
    data = method.resources.data
    probes = Probes(data, method.encoder)

    def knn_accuracy(features):
        train = features(data.train)
        test = features(data.test)
        return knn.accuracy(train, data.train.labels, test, data.test.labels)

    def of_encoder(learned):
        return knn_accuracy(functools.partial(probes.features, learned.encoder))

    pixels = knn_accuracy(lambda split: split.images.reshape(len(split.images), -1))
    random = of_encoder(trained(method, 0))
    learned = of_encoder(trained(method, 200))
    assert learned > max(pixels, random) + 0.03, (learned, pixels, random)
