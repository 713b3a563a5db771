"""Autoencoders: what is added and restored, losses by hand, what is left, and that they learn."""

import jax
import numpy as np
import pytest

from missing_bits import options
from missing_bits.data.images import Split
from missing_bits.encoders import files
from missing_bits.errors import UserError
from missing_bits.eval import reconstruction
from missing_bits.generative import autoencoder
from missing_bits.generative.autoencoder import Autoencoder, Config

SMALL = dict(autoencoder.TINY)
FULL = {"network": "full_resolution", "noise": 0.3}


@pytest.fixture(scope="module")
def small(build):
    return build(Autoencoder, options.make(Config, **SMALL))


@pytest.fixture(scope="module")
def denoiser(build):
    return build(Autoencoder, options.make(Config, **{**SMALL, **FULL}))


def first(method):
    return jax.jit(method.init)(jax.random.key(0))


def some(count=4):
    return np.random.default_rng(0).uniform(size=(count, 16, 16, 1)).astype(np.float32)


def test_the_loss_is_the_squared_error_of_images_by_hand(small):
    """Half its sum over pixels, a mean over images; a batch of twice the same has the same."""
    state = first(small)
    x = some()
    loss, output = small.loss(state.params, state.statistics, x, x)
    back = np.asarray(output.numbers)
    expected = 0.5 * np.square(back - x).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    twice = np.concatenate([x, x])
    again, _ = small.loss(state.params, state.statistics, twice, twice)
    np.testing.assert_allclose(again, loss, rtol=1e-5)


def test_an_image_passes_through_its_code_alone(small):
    learned = small.learned(first(small))
    codes = small.networks.codes(learned, some())
    assert codes.shape == (4, 2)
    there = small.networks.images(small.networks.apply(learned, some()).numbers)
    np.testing.assert_allclose(small.networks.decode(learned, codes), there, atol=1e-5)


def test_the_encoder_gets_noise_and_the_target_none(denoiser, monkeypatch):
    """Of the deviation that was asked for, other noise for each image and update."""
    state = jax.eval_shape(denoiser.init, jax.random.key(0))

    class Descending(Exception):
        pass

    def descend(loss, optimizer, params, opt_state, statistics, seen, x):
        raise Descending(np.asarray(seen), np.asarray(x))

    monkeypatch.setattr(autoencoder.optimizers, "descend", descend)

    def given(number):
        images = np.full((16, 16, 16, 1), 51, np.uint8)
        with pytest.raises(Descending) as met:
            denoiser.step(state, Split(images, None), jax.random.key(number))
        return met.value.args

    one, clean = given(0)
    other, _ = given(1)
    np.testing.assert_allclose(clean, 0.2, atol=1e-6)
    assert (one - clean).std() == pytest.approx(0.3, rel=0.05)
    assert (one[0] != one[1]).all()
    assert (one != other).all()


def test_a_denoiser_begins_with_what_it_gets_and_keeps_every_pixel(denoiser):
    x = some()
    output = denoiser.networks.apply(denoiser.learned(first(denoiser)), x)
    np.testing.assert_array_equal(output.numbers, x)


def test_what_is_handed_over_is_the_encoder_and_the_layer_on_it(small, tmp_path):
    learned = jax.device_get(small.learned(first(small)))
    small.hand_over(learned, tmp_path / "encoder" / "seed0.safetensors", {"exp": "autoencoder"})
    loaded = files.load(tmp_path)
    features = loaded(some())
    codes = features @ loaded.head["code"]["w"] + loaded.head["code"]["b"][None]
    np.testing.assert_allclose(codes, small.networks.codes(learned, some()), atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"latent": 0}, "--latent is 0"),
        ({"latent": 10**9}, "--latent is 1000000000"),
        ({"decoder_width": 0}, "--decoder-width is 0"),
        ({"noise": -0.1}, "--noise is -0.1"),
        ({"network": "full_resolution"}, "--network=full_resolution keeps every pixel"),
        ({**FULL, "output": "gaussian"}, "--output=gaussian is for networks with a bottleneck"),
        ({"output": "bernoulli"}, "--output=bernoulli is for black and white"),
        ({"network": "convnet", "batch_size": 1}, "--batch-size is 1"),
        ({"batch_size": 5_000}, "--batch-size is 5000"),
        ({"data": "topics"}, "--data=topics is text"),
        ({"updates": 0}, "--updates is 0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build):
    with pytest.raises(UserError) as refused:
        build(Autoencoder, options.make(Config, **{**SMALL, **changed})).source([0])
    assert named in str(refused.value)


def test_it_learns_digits_beyond_principal_components(build, trained, optimized):
    """With 2 numbers, which leave principal components 0.85 of the variance to miss."""
    sizes = {"updates": 400, "batch_size": 64, "latent": 2, "decoder_width": 32}
    method = build(Autoencoder, options.make(Config, **{**SMALL, **sizes}))
    learned = trained(method, 400)
    x = method.resources.data.test.images / np.float32(255)
    there = method.networks.images(method.networks.apply(learned, x).numbers)
    error = float(np.square(np.clip(there, 0, 1) - x).mean())
    baseline = reconstruction.components_error(method.resources.data, 2)
    assert error < 0.8 * baseline, (error, baseline)
