"""MAE: what the encoder sees, the loss by hand, what is judged and left, and that it learns."""

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
from missing_bits.loop.checkpoint import digest
from missing_bits.pictures import images as pictures_of_images
from missing_bits.ssl import mae
from missing_bits.ssl.mae import MAE, Config, Params

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
SMALL = {
    "network": "vit_nano",
    "updates": 10,
    "batch_size": 8,
    "decoder_layers": 1,
    "decoder_width": 16,
}
NOTHING = Params(None, None)


@pytest.fixture(scope="module")
def method(build, stripes):
    """A small method on stripes."""
    return build(MAE, options.make(Config, data=stripes, **SMALL))


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

    def tokens(self, variables, x, kept):
        return jnp.zeros((len(x), 1 + kept.shape[1], 2))


def predicting(autoencoder, predictions, **changed):
    """The autoencoder, but it encodes nothing and predicts what it is told, [B, M, P]."""
    decoder = hk.Transformed(None, lambda params, *seen: jnp.asarray(predictions))
    return dataclasses.replace(autoencoder, encoder=Blank(), decoder=decoder, **changed)


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 4), (0.6, 6), (0.9, 2), (0.5, 8), (0.1, 14)])
def test_counts_are_exact_and_masks_partition_the_patches(ratio, kept, autoencoder):
    """Of 16 patches 12, 9.6 = 10, 14.4 = 14, 8 and 1.6 = 2 are hidden."""
    masks = masks_of(dataclasses.replace(autoencoder, mask_ratio=ratio), 5)
    assert masks.kept.shape == (5, kept)
    assert masks.hidden.shape == (5, 16 - kept)
    for row in np.concatenate(masks, axis=1):
        assert sorted(row) == list(range(16))
    assert len({tuple(row) for row in masks.hidden}) > 1  # each image has its own mask


def test_the_decoder_gets_tokens_of_visible_patches_only(autoencoder, params):
    """With the class token: 1 + 4 of 16."""
    shapes = []

    def watched(params, tokens, kept, hidden):
        shapes.append(tokens.shape)
        return autoencoder.decoder.apply(params, tokens, kept, hidden)

    watching = dataclasses.replace(autoencoder, decoder=hk.Transformed(None, watched))
    restored = jax.eval_shape(watching.restore, params, some(3), masks_of(autoencoder, 3))
    assert shapes == [(3, 1 + 4, 32)]
    assert restored.predictions.shape == (3, 12, 16)
    assert restored.features.shape == (3, 2 * 32)


def test_the_encoder_is_blind_to_hidden_pixels(autoencoder, params):
    """Bit for bit, in predictions and features; what is visible changes both."""
    x = some(3)
    masks = masks_of(autoencoder, 3)
    noise = np.random.default_rng(1).uniform(size=(3, 12, 16)).astype(np.float32)
    restore = jax.jit(autoencoder.restore)
    plain = restore(params, x, masks)
    blind = restore(params, with_patches(x, masks.hidden, noise), masks)
    other = restore(params, with_patches(x, masks.kept, noise[:, :4]), masks)
    chex.assert_trees_all_equal(plain, blind)
    for a, b in zip(plain, other, strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3


def test_the_loss_looks_at_hidden_patches_only(autoencoder):
    """With given predictions, pixels of visible patches change nothing, those of hidden ones do."""
    predictions = np.full((2, 12, 16), 0.3, np.float32)
    told = predicting(autoencoder, predictions, normalize_targets=False)
    x = some(2)
    masks = masks_of(told, 2)

    def loss(x):
        return float(told.loss(NOTHING, jnp.asarray(x), masks)[0])

    plain = loss(x)
    assert loss(with_patches(x, masks.kept, np.ones((2, 4, 16), np.float32))) == plain
    for place in range(12):
        places = masks.hidden[:, place : place + 1]
        changed = with_patches(x, places, np.ones((2, 1, 16), np.float32))
        assert abs(loss(changed) - plain) > 1e-3


@pytest.mark.parametrize(
    ("normalize", "predicted", "expected"),
    [(True, 0.0, 15 / 16), (True, 1.0, 1 + 15 / 16), (False, 0.5, (0.3**2 + 0.1**2) / 2)],
)
def test_loss_by_hand(normalize, predicted, expected, autoencoder):
    """Of each patch half the pixels are 0.2 and half are 0.6.

    Their mean is 0.4, their unbiased variance 16 * 0.2^2 / 15. Normalized they are +-v with v^2 =
    0.2^2 / (16 * 0.2^2 / 15) = 15 / 16. A prediction of 0 errs by v^2, one of 1 by ((1 - v)^2 +
    (1 + v)^2) / 2 = 1 + v^2. In pixels, 0.5 errs by 0.3 and by 0.1.
    """
    predictions = np.full((2, 12, 16), predicted, np.float32)
    told = predicting(autoencoder, predictions, normalize_targets=normalize)
    x = np.tile(np.array([0.2, 0.6], np.float32).reshape(1, 1, 2, 1), (2, SIDE, SIDE // 2, 1))
    loss, _ = told.loss(NOTHING, jnp.asarray(x), masks_of(told, 2))
    assert loss == pytest.approx(expected, rel=1e-3)  # epsilon under the root is 1e-6 of 0.04


def test_each_prediction_is_compared_with_its_own_patch(autoencoder):
    """Patch i of image b is i / 32 + b / 2 of white: in the masks' order there is no error."""
    white = jnp.tile(jnp.arange(16.0)[None, :, None] / 32, (2, 1, 16))
    x = np.asarray(masking.unpatchify(white, 4, 4, 1))
    x = x + np.array([0, 0.5], np.float32).reshape(2, 1, 1, 1)
    masks = masks_of(autoencoder, 2)
    values = masks.hidden / 32 + np.array([[0], [0.5]])
    values = np.broadcast_to(values[:, :, None], (2, 12, 16)).astype(np.float32)

    def loss(predictions):
        told = predicting(autoencoder, predictions, normalize_targets=False)
        return told.loss(NOTHING, x, masks)[0]

    assert loss(values) == pytest.approx(0, abs=1e-6)
    assert loss(values[:, ::-1]) > 1e-3


def test_evaluation_uses_the_same_masks_each_time_and_leaves_no_trace(method, autoencoder, params):
    """Whatever its key; and the error is the mean over all hidden pixels of the test images."""
    before = digest(params)
    keys = [jax.random.key(seed) for seed in (0, 1)]
    first, second = (method.evaluation.scores(params, key, False) for key in keys)
    assert first == second
    assert {"eval/masked_error", "eval/effective_rank", "eval/feature_deviation"} == set(first)
    assert method.evaluation.headline.name == "eval/effective_rank"  # there are no labels
    assert digest(params) == before
    # Fewer than 500 test images: all of them count.
    x = method.resources.data.test.images.astype(np.float32) / 255
    masks = masks_of(autoencoder, len(x))
    predictions = jax.jit(autoencoder.restore)(params, x, masks).predictions
    patches = np.asarray(masking.patchify(x, 4), np.float64)
    patches = np.take_along_axis(patches, masks.hidden[:, :, None], axis=1)
    std = np.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
    wanted = (patches - patches.mean(axis=-1, keepdims=True)) / std
    expected = np.square(predictions - wanted).mean()
    assert first["eval/masked_error"] == pytest.approx(expected, rel=1e-4)


def test_the_baseline_guesses_the_mean_patch_of_each_place(method):
    """Written out patch by patch in float64: normalized and squared."""

    def patches(images):
        found = np.empty((len(images), PATCHES, 16))
        for place in range(PATCHES):
            row, column = divmod(place, 4)
            part = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] / 255.0
            part = part.reshape(len(images), 16)
            spread = np.sqrt(part.var(axis=1, ddof=1, keepdims=True) + 1e-6)
            found[:, place] = (part - part.mean(axis=1, keepdims=True)) / spread
        return found

    data = method.resources.data
    mean = patches(data.train.images).mean(axis=0, keepdims=True)
    expected = np.square(patches(data.test.images) - mean).mean()
    assert method.evaluation.baselines(jax.random.key(0)) == {
        "baseline/mean_patch_error": pytest.approx(expected, rel=1e-4)
    }


def test_labeled_images_are_probed_too(build, tmp_path):
    """The headline is the linear probe's accuracy, and simpler encoders are compared with."""
    images = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE), np.uint8)
    np.savez(tmp_path / "labeled.npz", images=images, labels=np.arange(40) % 2)
    labeled = build(MAE, options.make(Config, data=f"npz:{tmp_path / 'labeled.npz'}", **SMALL))
    source = labeled.source([0])
    assert source.next(None, 0).labels is None  # no label reaches the update
    source.close()
    assert labeled.evaluation.headline == ("eval/linear_accuracy", True)
    assert {
        "baseline/pixels_linear_accuracy",
        "baseline/random_knn_accuracy",
        "baseline/mean_patch_error",
    } <= set(labeled.evaluation.baselines(jax.random.key(0)))


def test_what_is_handed_over_is_the_encoder_and_another_run_starts_from_it(
    build, method, params, stripes, tmp_path
):
    method.hand_over(params, tmp_path / "encoder" / "seed0.safetensors", {"exp": "mae"})
    loaded = files.load(tmp_path)
    assert loaded.encoder == method.autoencoder.encoder
    assert loaded.head == {}
    chex.assert_trees_all_equal(loaded.variables.params, params.encoder)
    x = jnp.asarray(method.resources.data.test.images[:3])
    features, _ = method.autoencoder.encoder.apply(params.encoder_variables, x)
    np.testing.assert_array_equal(loaded(x), features)
    config = options.make(Config, data=stripes, init_from=str(tmp_path), **SMALL)
    second = build(MAE, config)
    start = jax.jit(second.init)(jax.random.key(1)).params
    chex.assert_trees_all_equal(start.encoder, params.encoder)
    fresh = jax.jit(method.init)(jax.random.key(1)).params
    chex.assert_trees_all_equal(start.decoder, fresh.decoder)
    assert digest(jax.device_get(fresh.encoder)) != digest(params.encoder)


def test_reconstructions_show_the_original_the_masked_and_the_restored(
    method, autoencoder, tmp_path, monkeypatch
):
    """Only hidden patches differ: gray in the second; restored targets are the original."""
    data = method.resources.data
    x = data.test.images[np.linspace(0, len(data.test.images) - 1, 12).astype(int)]
    masks = masks_of(autoencoder, 12, seed=3)
    patches = autoencoder.patches.at(jnp.asarray(x) / 255, masks.hidden)
    right = predicting(autoencoder, autoencoder.targets(patches).values)
    draw = pictures_of_images.reconstructions
    drawn = []

    def watched(*sets):
        drawn.append(sets)
        draw(*sets)

    monkeypatch.setattr(pictures_of_images, "reconstructions", watched)
    masked_patches.evaluation(data, right).pictures(NOTHING, 3, tmp_path)
    ((original, masked, restored, path),) = drawn
    gray = with_patches(x / np.float32(255), masks.hidden, np.float32(0.5))
    np.testing.assert_allclose(original, x / 255, atol=1e-6)
    np.testing.assert_allclose(masked, gray, atol=1e-6)
    np.testing.assert_allclose(restored, x / 255, atol=1e-4)
    assert path == tmp_path / "reconstructions.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_preset_of_imagenet_is_the_published_recipe(monkeypatch):
    """On stand-in images of the real size: a step size of 1.5e-4 * 4096 / 256, and 3/4 hidden."""
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    split = Split(images, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(Images, "load", lambda self: in_memory(split, split, tuple("abcd")))
    config = options.make(Config, data="imagenet", **mae.PRESETS["imagenet"])
    MAE.check(config)
    published = MAE(config, MAE.resources(config))
    assert config.optimizer.learning_rate == pytest.approx(1.5e-4 * 4096 / 256)
    assert published.plan.budget == pytest.approx(800 * 1_281_167 / 4096, abs=1)
    masks = masks_of(published.autoencoder, 1)  # of 14 x 14 patches
    assert jax.tree.map(np.shape, masks) == Masks((1, 49), (1, 147))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"mask_ratio": 0.0}, "--mask-ratio is 0.0; it must lie above 0 and below 1"),
        ({"mask_ratio": 1.0}, "--mask-ratio is 1.0; it must lie above 0 and below 1"),
        ({"mask_ratio": 0.99}, "--mask-ratio is 0.99: of 16 patches none stays visible"),
        ({"mask_ratio": 0.01}, "--mask-ratio is 0.01: of 16 patches none is hidden"),
        (
            {"data": "npz:four.npz", "mask_ratio": 0.9},
            "--mask-ratio is 0.9: of 4 patches none stays visible",
        ),
        (
            {"data": "npz:odd.npz"},
            "--network=vit_nano cuts images into patches of 4 x 4 pixels, but they are 10 x 10",
        ),
        ({"network": "resnet18"}, "--network=resnet18 has no patches to mask"),
        ({"data": "topics"}, "--data=topics is text"),
        ({"init_from": "no/such/run"}, "no/such/run"),
        ({"decoder_width": 30}, "--decoder-width is 30; give a multiple of 4 and of 4"),
        (
            {"decoder_width": 64, "decoder_heads": 6},
            "--decoder-width is 64; give a multiple of 4 and of 6",
        ),
        ({"decoder_width": 18, "decoder_heads": 2}, "--decoder-width is 18"),
        ({"decoder_layers": 0}, "--decoder-layers is 0"),
        ({"decoder_heads": 0}, "--decoder-heads is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": 5_000}, "--batch-size is 5000"),
        ({"updates": 0}, "--updates is 0"),
        ({"views": {"flip": 2.0}}, "--views.flip is 2.0"),
        ({"optimizer": {"learning_rate": 0.0}}, "--optimizer.learning-rate is 0.0"),
    ],
)
def test_settings_that_cannot_run_are_refused_by_name(
    changed, named, build, stripes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, side in (("four", 8), ("odd", 10)):
        images = np.random.default_rng(0).integers(0, 256, (40, side, side), np.uint8)
        np.savez(f"{name}.npz", images=images)
    with pytest.raises(UserError) as refused:
        build(MAE, options.make(Config, **{"data": stripes, **SMALL, **changed})).source([0])
    assert named in str(refused.value)


def test_it_learns_stripes_beyond_their_mean(build, trained, stripes):
    """Sixty updates: hidden patches are restored better than by the mean patch of each place."""
    sizes = {"updates": 60, "batch_size": 16, "mask_ratio": 0.5, "decoder_width": 64}
    config = options.make(Config, **{"data": stripes, **SMALL, **sizes, "views": AS_THEY_ARE})
    method = build(MAE, config)
    learned = trained(method, 60)
    error = method.evaluation.scores(learned, jax.random.key(0), True)["eval/masked_error"]
    baseline = method.evaluation.baselines(jax.random.key(0))["baseline/mean_patch_error"]
    assert error < 0.5 * baseline, (error, baseline)
