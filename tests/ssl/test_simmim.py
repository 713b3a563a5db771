"""SimMIM: what the encoder sees, the loss by hand, what is judged and left, and learning."""

import dataclasses

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits import options
from missing_bits.augment import masking
from missing_bits.augment.patches import Masks
from missing_bits.augment.views import Views
from missing_bits.data.images import Split, in_memory
from missing_bits.data.load import Images
from missing_bits.encoders import files
from missing_bits.errors import UserError
from missing_bits.eval import masked_patches
from missing_bits.pictures import images as pictures_of_images
from missing_bits.ssl import simmim
from missing_bits.ssl.simmim import Config, Params, SimMIM

AS_THEY_ARE = Views(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    solarize=(0.0, 0.0),
)
SIDE = 16  # pixels
PATCHES = 16  # of 4 x 4 pixels
HIDDEN = 10  # 0.6 of them: 9.6
SMALL = {"network": "vit_nano", "updates": 10, "batch_size": 8}
NOTHING = Params(None, None, None)


@pytest.fixture(scope="module")
def method(build, stripes):
    """A small method on stripes."""
    return build(SimMIM, options.make(Config, data=stripes, **SMALL))


@pytest.fixture(scope="module")
def autoencoder(method):
    return method.autoencoder


@pytest.fixture(scope="module")
def params(method):
    return jax.device_get(jax.jit(method.init)(jax.random.key(0)).params)


def some(count, seed=0):
    """Images [count, H, W, 1] of noise in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(count, SIDE, SIDE, 1)).astype(np.float32)


def masks_of(autoencoder, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.tree.map(np.asarray, autoencoder.masks(keys))


def with_patches(x, places, patches):
    """Images whose patches [B, n, P] at places [B, n] are replaced."""
    all_patches = np.array(masking.patchify(jnp.asarray(x), 4))
    np.put_along_axis(all_patches, places[:, :, None], patches, axis=1)
    return np.asarray(masking.unpatchify(jnp.asarray(all_patches), 4, 4, 1))


class Blank:
    """An encoder that looks at nothing."""

    def tokens(self, variables, x, mask, mask_token):
        return jnp.zeros((len(x), 1 + mask.shape[1], 2))


def predicting(autoencoder, predictions):
    """The autoencoder, but it encodes nothing and predicts what it is told, [B, M, P]."""
    decoder = hk.Transformed(None, lambda params, tokens: jnp.asarray(predictions))
    return dataclasses.replace(autoencoder, encoder=Blank(), decoder=decoder)


def test_the_linear_layer_gets_tokens_of_hidden_places(autoencoder, params):
    """Of 16 the 10 hidden ones, each from its own place."""
    x = some(3)
    masks = masks_of(autoencoder, 3)
    assert masks.kept.shape == (3, PATCHES - HIDDEN)
    is_hidden = np.zeros((3, PATCHES), bool)
    np.put_along_axis(is_hidden, masks.hidden, True, axis=1)
    tokens = autoencoder.encoder.tokens(
        params.encoder_variables, x, mask=is_hidden, mask_token=params.mask_token
    )
    echo = hk.Transformed(None, lambda params, tokens: tokens)
    restored = dataclasses.replace(autoencoder, decoder=echo).restore(params, x, masks)
    assert restored.predictions.shape == (3, HIDDEN, 32)
    np.testing.assert_allclose(
        restored.predictions, tokens[:, 1:][is_hidden].reshape(3, HIDDEN, 32), rtol=1e-5, atol=1e-6
    )
    assert restored.features.shape == (3, 2 * 32)


def test_the_encoder_is_blind_to_hidden_pixels(autoencoder, params):
    """Bit for bit, in predictions and features; what is visible changes both."""
    x = some(3)
    masks = masks_of(autoencoder, 3)
    noise = np.random.default_rng(1).uniform(size=(3, PATCHES, 16)).astype(np.float32)
    restore = jax.jit(autoencoder.restore)
    plain = restore(params, x, masks)
    blind = restore(params, with_patches(x, masks.hidden, noise[:, :HIDDEN]), masks)
    other = restore(params, with_patches(x, masks.kept, noise[:, HIDDEN:]), masks)
    chex.assert_trees_all_equal(plain, blind)
    for a, b in zip(plain, other, strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3


def test_the_loss_looks_at_hidden_patches_only(autoencoder):
    """With given predictions, pixels of visible patches change nothing, those of hidden ones do."""
    told = predicting(autoencoder, np.full((2, HIDDEN, 16), 0.3, np.float32))
    x = some(2)
    masks = masks_of(told, 2)

    def loss(x):
        return float(told.loss(NOTHING, jnp.asarray(x), masks)[0])

    plain = loss(x)
    visible = np.ones((2, PATCHES - HIDDEN, 16), np.float32)
    assert loss(with_patches(x, masks.kept, visible)) == plain
    for place in range(HIDDEN):
        places = masks.hidden[:, place : place + 1]
        changed = with_patches(x, places, np.ones((2, 1, 16), np.float32))
        assert abs(loss(changed) - plain) > 1e-3


def test_loss_by_hand(autoencoder):
    """Of each patch half the pixels are 0.2 and half are 0.6: 0.5 errs by 0.3 and by 0.1."""
    told = predicting(autoencoder, np.full((2, HIDDEN, 16), 0.5, np.float32))
    x = np.tile(np.array([0.2, 0.6], np.float32).reshape(1, 1, 2, 1), (2, SIDE, SIDE // 2, 1))
    loss, _ = told.loss(NOTHING, jnp.asarray(x), masks_of(told, 2))
    assert loss == pytest.approx((0.3 + 0.1) / 2, rel=1e-5)


def test_each_prediction_is_compared_with_its_own_patch(autoencoder):
    """Patch i of image b is i / 32 + b / 2 of white: in the masks' order there is no error."""
    white = jnp.tile(jnp.arange(16.0)[None, :, None] / 32, (2, 1, 16))
    x = np.asarray(masking.unpatchify(white, 4, 4, 1))
    x = x + np.array([0, 0.5], np.float32).reshape(2, 1, 1, 1)
    masks = masks_of(autoencoder, 2)
    values = masks.hidden / 32 + np.array([[0], [0.5]])
    values = np.broadcast_to(values[:, :, None], (2, HIDDEN, 16)).astype(np.float32)

    def loss(predictions):
        return predicting(autoencoder, predictions).loss(NOTHING, x, masks)[0]

    assert loss(values) == pytest.approx(0, abs=1e-6)
    assert loss(values[:, ::-1]) > 1e-3


def test_the_baseline_guesses_the_mean_patch_of_each_place(method):
    """In pixels and absolute, in float64: the mean patches of all places are the mean image."""
    data = method.resources.data
    mean = (data.train.images / 255).mean(axis=0, keepdims=True)
    expected = np.abs(data.test.images / 255 - mean).mean()
    assert method.evaluation.baselines(jax.random.key(0)) == {
        "baseline/mean_patch_error": pytest.approx(expected, rel=1e-4)
    }


def test_what_is_handed_over_is_the_encoder_and_another_run_starts_from_it(
    build, method, params, stripes, tmp_path
):
    method.hand_over(params, tmp_path / "encoder" / "seed0.safetensors", {"exp": "simmim"})
    loaded = files.load(tmp_path)
    assert loaded.encoder == method.autoencoder.encoder
    assert loaded.head == {}
    chex.assert_trees_all_equal(loaded.variables.params, params.encoder)
    x = jnp.asarray(method.resources.data.test.images[:3])
    features, _ = method.autoencoder.encoder.apply(params.encoder_variables, x)
    np.testing.assert_array_equal(loaded(x), features)
    config = options.make(Config, data=stripes, init_from=str(tmp_path), **SMALL)
    start = jax.jit(build(SimMIM, config).init)(jax.random.key(1)).params
    fresh = jax.jit(method.init)(jax.random.key(1)).params
    chex.assert_trees_all_equal(start, fresh._replace(encoder=params.encoder))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), fresh.encoder, params.encoder)
    assert any(jax.tree.leaves(changed))


def test_reconstructions_show_the_original_the_masked_and_the_restored(
    method, autoencoder, tmp_path, monkeypatch
):
    """Only hidden patches differ: gray in the second; restored targets are the original."""
    data = method.resources.data
    x = data.test.images[np.linspace(0, len(data.test.images) - 1, 12).astype(int)]
    masks = masks_of(autoencoder, 12, seed=3)
    right = predicting(autoencoder, autoencoder.patches.at(jnp.asarray(x) / 255, masks.hidden))
    drawn = []
    monkeypatch.setattr(pictures_of_images, "reconstructions", lambda *sets: drawn.append(sets))
    masked_patches.evaluation(data, right).pictures(NOTHING, 3, tmp_path)
    ((original, masked, restored, path),) = drawn
    gray = with_patches(x / np.float32(255), masks.hidden, np.float32(0.5))
    np.testing.assert_allclose(original, x / 255, atol=1e-6)
    np.testing.assert_allclose(masked, gray, atol=1e-6)
    np.testing.assert_allclose(restored, x / 255, atol=1e-6)
    assert path == tmp_path / "reconstructions.png"


def test_the_preset_of_imagenet_is_the_published_recipe(monkeypatch):
    """On stand-in images of the real size: a step size of 1e-4 * 2048 / 512, and 0.6 hidden."""
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    split = Split(images, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(Images, "load", lambda self: in_memory(split, split, tuple("abcd")))
    config = options.make(Config, data="imagenet", **simmim.PRESETS["imagenet"])
    SimMIM.check(config)
    published = SimMIM(config, SimMIM.resources(config))
    assert published.evaluation.headline == ("eval/linear_accuracy", True)
    assert config.optimizer.learning_rate == pytest.approx(1e-4 * 2048 / 512)
    assert published.plan.budget == pytest.approx(800 * 1_281_167 / 2048, abs=1)
    assert config.optimizer.warmup * 800 == 10
    masks = masks_of(published.autoencoder, 1)  # 0.6 of 14 x 14 patches are 117.6
    assert jax.tree.map(np.shape, masks) == Masks((1, 78), (1, 118))
    assert jax.eval_shape(published.init, jax.random.key(0)).params.mask_token.shape == (384,)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"mask_ratio": 0.0}, "--mask-ratio is 0.0; it must lie above 0 and below 1"),
        ({"mask_ratio": 0.99}, "--mask-ratio is 0.99: of 16 patches none stays visible"),
        ({"mask_ratio": 0.01}, "--mask-ratio is 0.01: of 16 patches none is hidden"),
        ({"patch": 5}, "--network=vit_nano cuts images into patches of 5 x 5 pixels"),
        ({"network": "convnet"}, "--network=convnet has no patches to mask"),
        ({"data": "topics"}, "--data=topics is text"),
        ({"init_from": "no/such/run"}, "no/such/run"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": 5_000}, "--batch-size is 5000"),
        ({"updates": 0}, "--updates is 0"),
        ({"views": {"flip": 2.0}}, "--views.flip is 2.0"),
        ({"optimizer": {"learning_rate": 0.0}}, "--optimizer.learning-rate is 0.0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(changed, named, build, stripes):
    with pytest.raises(UserError) as refused:
        build(SimMIM, options.make(Config, **{"data": stripes, **SMALL, **changed})).source([0])
    assert named in str(refused.value)


def test_it_learns_stripes_beyond_their_mean(build, trained, stripes):
    """A hundred updates: hidden patches are restored better than by the mean patch of each place."""
    sizes = {"updates": 100, "batch_size": 16, "mask_ratio": 0.5}
    config = options.make(Config, **{"data": stripes, **SMALL, **sizes, "views": AS_THEY_ARE})
    method = build(SimMIM, config)
    learned = trained(method, 100)
    error = method.evaluation.scores(learned, jax.random.key(0), True)["eval/masked_error"]
    baseline = method.evaluation.baselines(jax.random.key(0))["baseline/mean_patch_error"]
    assert error < 0.5 * baseline, (error, baseline)
