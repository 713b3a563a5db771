"""Masked images: what the encoder sees, what the loss looks at, by hand; evaluation, the encoder left, and learning."""

import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.augment import masking
from missing_bits.augment.views import Views
from missing_bits.encoders import files
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError
from missing_bits.loop.checkpoint import digest
from missing_bits.loop.config import replace
from missing_bits.loop.parallel import Layout
from missing_bits.pictures import images as images_pictures
from missing_bits.ssl import mae
from missing_bits.ssl.mae import Config, MaskedImage

METHODS = ("mae", "simmim")
AS_THEY_ARE = Views(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    gray=0.0,
    solarize=(0.0, 0.0),
)
SIDE, PATCHES = 16, 16  # pixels; patches of 4 x 4 pixels


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """The value of --data for 600 images of stripes, without labels.

    They run from left to right or from top to bottom, four pixels from one to the next, so all patches of an image are
    the same: a single visible one tells what is hidden.
    """
    rng = np.random.default_rng(0)
    phase, contrast = rng.integers(0, 4, 600)[:, None], rng.uniform(0.5, 1, 600)[:, None]
    waves = contrast * np.sin(np.pi / 2 * (np.arange(SIDE)[None] + phase) + 0.5)  # [600, SIDE]
    images = np.repeat(waves[:, :, None], SIDE, axis=2)
    images[::2] = images[::2].swapaxes(1, 2)
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    np.savez(path, images=np.rint(127.5 + 127.5 * images).astype(np.uint8))
    return f"npz:{path}"


@pytest.fixture(scope="module")
def make(stripes, small_vit):
    """The function that makes an experiment, small and on stripes but for what is changed; each only once."""

    @functools.cache
    def make(method="mae", **changed):
        small = {"updates": 10, "batch_size": 8, "decoder_layers": 1, "decoder_width": 16}
        return MaskedImage(Config(**{"data": stripes, "method": method, **small} | changed))

    return make


@functools.cache
def params_of(experiment):
    return jax.jit(experiment.init)(jax.random.key(0)).params


def some(count, seed=0):
    """Images [count, H, W, 1] of noise in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(count, SIDE, SIDE, 1)).astype(np.float32)


def masks_of(experiment, count, seed=0):
    return jax.tree.map(np.asarray, experiment.masks(jax.random.split(jax.random.key(seed), count)))


def with_patches(x, places, patches):
    """Images whose patches [B, n, P] at places [B, n] are replaced."""
    all_patches = np.array(masking.patchify(jnp.asarray(x), 4))
    np.put_along_axis(all_patches, places[:, :, None], patches, axis=1)
    return np.asarray(masking.unpatchify(jnp.asarray(all_patches), 4, 4, 1))


def predicting(experiment, predictions):
    """A copy of the experiment that encodes nothing and predicts what it is told, [B, M, P]."""
    copy = object.__new__(MaskedImage)
    copy.__dict__.update(experiment.__dict__)
    copy.encode = lambda params, x, kept, hidden: ((), jnp.zeros((len(x), 2)))
    copy.decoder = hk.Transformed(experiment.decoder.init, lambda params: jnp.asarray(predictions))
    return copy


NOTHING = {"encoder": None, "decoder": None}


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 4), (0.6, 6), (0.9, 2), (0.5, 8), (0.1, 14)])
def test_counts_are_exact_and_masks_partition_the_patches(ratio, kept, make):
    """Of 16 patches 12, 9.6 = 10, 14.4 = 14, 8 and 1.6 = 2 are hidden."""
    visible, hidden = masks_of(make(mask_ratio=ratio), 5)
    assert visible.shape == (5, kept)
    assert hidden.shape == (5, 16 - kept)
    for row in np.concatenate([visible, hidden], axis=1):
        assert sorted(row) == list(range(16))
    assert len({tuple(row) for row in hidden}) > 1  # each image has its own mask


def test_mae_encodes_visible_patches_only_and_simmim_all(make):
    """Tokens with the class token: 1 + 4 of 16; simmim's decoder gets the tokens of the 12 hidden places."""
    shapes = {}
    for method in METHODS:
        experiment = make(method)
        seen, features = jax.eval_shape(
            experiment.encode, params_of(experiment), some(3), *masks_of(experiment, 3)
        )
        shapes[method] = seen[0].shape
        assert features.shape == (3, 2 * 32)
    assert shapes == {"mae": (3, 1 + 4, 32), "simmim": (3, 12, 32)}


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_is_blind_to_hidden_pixels(method, make):
    """Predictions and features are the same bit for bit, whatever is hidden; what is visible changes both."""
    experiment = make(method)
    x, (kept, hidden) = some(3), masks_of(experiment, 3)
    noise = np.random.default_rng(1).uniform(size=(3, 12, 16)).astype(np.float32)
    loss = jax.jit(experiment.loss)
    _, plain = loss(params_of(experiment), x, kept, hidden)
    _, blind = loss(params_of(experiment), with_patches(x, hidden, noise), kept, hidden)
    _, other = loss(params_of(experiment), with_patches(x, kept, noise[:, :4]), kept, hidden)
    for a, b, c in zip(plain, blind, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(np.asarray(a) - np.asarray(c)).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_looks_at_hidden_patches_only(method, make):
    """With predictions that are given, pixels of visible patches change nothing, those of any hidden one something."""
    experiment = predicting(
        make(method, normalize_targets=False), np.full((2, 12, 16), 0.3, np.float32)
    )
    x, (kept, hidden) = some(2), masks_of(experiment, 2)

    def loss(x):
        return float(experiment.loss(NOTHING, jnp.asarray(x), kept, hidden)[0])

    plain = loss(x)
    assert loss(with_patches(x, kept, np.ones((2, 4, 16), np.float32))) == plain
    for place in range(12):
        changed = with_patches(x, hidden[:, place : place + 1], np.ones((2, 1, 16), np.float32))
        assert abs(loss(changed) - plain) > 1e-3


@pytest.mark.parametrize(
    ("method", "normalize", "predicted", "expected"),
    [
        ("mae", True, 0.0, 15 / 16),
        ("mae", True, 1.0, 1 + 15 / 16),
        ("mae", False, 0.5, (0.3**2 + 0.1**2) / 2),
        ("simmim", True, 0.5, (0.3 + 0.1) / 2),
    ],
)
def test_loss_by_hand(method, normalize, predicted, expected, make):
    """Of each patch half the pixels are 0.2 and half are 0.6: mean 0.4, unbiased variance 16 * 0.2^2 / 15.

    Normalized they are +-v with v^2 = 0.2^2 / (16 * 0.2^2 / 15) = 15 / 16. A prediction of 0 errs by v^2, one of 1 by
    ((1 - v)^2 + (1 + v)^2) / 2 = 1 + v^2. In pixels, 0.5 errs by 0.3 and by 0.1: squared for mae, absolute for simmim,
    whose targets are never normalized.
    """
    experiment = predicting(
        make(method, normalize_targets=normalize), np.full((2, 12, 16), predicted, np.float32)
    )
    x = np.tile(np.array([0.2, 0.6], np.float32).reshape(1, 1, 2, 1), (2, SIDE, SIDE // 2, 1))
    loss, _ = experiment.loss(NOTHING, jnp.asarray(x), *masks_of(experiment, 2))
    assert loss == pytest.approx(expected, rel=1e-3)  # epsilon under the root is 1e-6 of 0.04


@pytest.mark.parametrize("method", METHODS)
def test_each_prediction_is_compared_with_its_own_patch(method, make):
    """Patch i of image b is i / 16 + b / 2 of white throughout: predicted in the masks' order, there is no error."""
    plain = make(method, normalize_targets=False)
    x = np.asarray(
        masking.unpatchify(jnp.tile(jnp.arange(16.0)[None, :, None] / 32, (2, 1, 16)), 4, 4, 1)
    )
    x = x + np.array([0, 0.5], np.float32).reshape(2, 1, 1, 1)
    kept, hidden = masks_of(plain, 2)
    values = np.broadcast_to(
        (hidden / 32 + np.array([[0], [0.5]]))[:, :, None], (2, 12, 16)
    ).astype(np.float32)
    right, wrong = (
        predicting(plain, v).loss(NOTHING, x, kept, hidden)[0] for v in (values, values[:, ::-1])
    )
    assert right == pytest.approx(0, abs=1e-6)
    assert wrong > 1e-3


def test_evaluation_uses_the_same_masks_each_time_and_leaves_no_trace(make):
    """Whatever its key; and the error is the mean over all hidden pixels of the test images."""
    experiment = make("mae")
    learned = params_of(experiment)
    before = digest(jax.device_get(learned))
    first, second = (experiment.evaluate(learned, jax.random.key(seed)) for seed in (0, 1))
    assert first == second
    assert {"eval/masked_error", "eval/effective_rank", "eval/feature_deviation"} == set(first)
    assert digest(jax.device_get(learned)) == before
    x = experiment.data.test.images.astype(np.float32) / 255  # fewer than 500: all of them
    kept, hidden = masks_of(experiment, len(x))
    _, (predictions, _) = jax.jit(experiment.loss)(learned, x, kept, hidden)
    patches = np.take_along_axis(
        np.asarray(masking.patchify(x, 4), np.float64), hidden[:, :, None], axis=1
    )
    std = np.sqrt(patches.var(axis=-1, ddof=1, keepdims=True) + 1e-6)
    wanted = (patches - patches.mean(axis=-1, keepdims=True)) / std
    assert first["eval/masked_error"] == pytest.approx(
        np.square(predictions - wanted).mean(), rel=1e-4
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_baseline_guesses_the_mean_patch_of_each_place(method, make):
    """Written out patch by patch in float64: normalized and squared for mae, pixels and absolute for simmim."""
    experiment = make(method)

    def patches(images):
        found = np.empty((len(images), PATCHES, 16))
        for place in range(PATCHES):
            row, column = divmod(place, 4)
            part = (
                images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(
                    len(images), 16
                )
                / 255.0
            )
            if method == "mae":
                spread = np.sqrt(part.var(axis=1, ddof=1, keepdims=True) + 1e-6)
                part = (part - part.mean(axis=1, keepdims=True)) / spread
            found[:, place] = part
        return found

    error = patches(experiment.data.test.images) - patches(experiment.data.train.images).mean(
        axis=0, keepdims=True
    )
    expected = np.square(error).mean() if method == "mae" else np.abs(error).mean()
    assert experiment.baselines(jax.random.key(0)) == {
        "baseline/mean_patch_error": pytest.approx(expected, rel=1e-4)
    }


def test_labeled_images_are_probed_too(tmp_path):
    """The headline is the linear probe's accuracy, and simpler encoders are compared with."""
    images = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE), np.uint8)
    np.savez(tmp_path / "labeled.npz", images=images, labels=np.arange(40) % 2)
    experiment = MaskedImage(
        Config(data=f"npz:{tmp_path / 'labeled.npz'}", updates=10, batch_size=8)
    )
    source = experiment.source([0])
    assert source.next(None, 0).labels is None  # no label reaches the update
    source.close()
    assert experiment.headline == "eval/linear_accuracy"
    found = set(experiment.baselines(jax.random.key(0)))
    assert {
        "baseline/pixels_linear_accuracy",
        "baseline/random_knn_accuracy",
        "baseline/mean_patch_error",
    } <= found


@pytest.mark.parametrize("method", METHODS)
def test_what_is_handed_over_is_the_encoder(method, make, tmp_path):
    experiment = make(method)
    learned = jax.device_get(params_of(experiment))
    experiment.hand_over(
        learned, tmp_path / "encoder" / "seed0.safetensors", {"exp": "masked_image"}
    )
    loaded = files.load(tmp_path)
    assert loaded.encoder == experiment.encoder
    assert loaded.head == {}
    chex.assert_trees_all_equal(loaded.variables.params, learned["encoder"])
    x = experiment.data.test.images[:3]
    features, _ = experiment.encoder.apply(Variables(learned["encoder"], {}), jnp.asarray(x))
    np.testing.assert_array_equal(loaded(x), features)


@pytest.mark.parametrize("method", METHODS)
def test_reconstructions_show_the_original_the_masked_and_the_restored(
    method, make, tmp_path, monkeypatch
):
    """Visible patches are the same in all three, hidden ones gray in the second; targets restored are the original."""
    experiment, drawn = make(method), []
    x = experiment.data.test.images[
        np.linspace(0, len(experiment.data.test.images) - 1, 12).astype(int)
    ]
    _, hidden = masks_of(experiment, 12, seed=3)
    right = predicting(experiment, experiment.targets(jnp.asarray(x) / 255, hidden).values)
    draw = images_pictures.reconstructions
    monkeypatch.setattr(
        images_pictures, "reconstructions", lambda *sets: (drawn.append(sets), draw(*sets))
    )
    right.pictures(NOTHING, 3, tmp_path)
    ((original, masked, restored, path),) = drawn
    np.testing.assert_allclose(original, x / 255, atol=1e-6)
    np.testing.assert_allclose(
        masked, with_patches(x / np.float32(255), hidden, np.float32(0.5)), atol=1e-6
    )
    np.testing.assert_allclose(restored, x / 255, atol=1e-4)
    assert path == tmp_path / "reconstructions.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_preset_of_imagenet_is_the_published_recipe(monkeypatch):
    """On stand-in images of the real size: a step size of 1.5e-4 * 4096 / 256, and 3/4 hidden."""
    from missing_bits.data.images import Split, in_memory

    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    split = Split(images, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(mae, "load", lambda *_: in_memory(split, split, tuple("abcd")))
    experiment = MaskedImage(replace(Config(), {"data": "imagenet", **mae.PRESETS["imagenet"]}))
    assert experiment.config.optimizer.learning_rate == pytest.approx(1.5e-4 * 4096 / 256)
    assert experiment.budget == pytest.approx(800 * 1_281_167 / 4096, abs=1)
    assert [part.shape for part in masks_of(experiment, 1)] == [
        (1, 49),
        (1, 147),
    ]  # of 14 x 14 patches


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
            "--network=vit_micro cuts images into patches of 4 x 4 pixels, but they are 10 x 10",
        ),
        ({"data": "topics"}, "--data=topics is text"),
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
    changed, named, stripes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, side in (("four", 8), ("odd", 10)):
        np.savez(
            f"{name}.npz",
            images=np.random.default_rng(0).integers(0, 256, (40, side, side), np.uint8),
        )
    with pytest.raises(UserError) as refused:
        MaskedImage(replace(Config(data=stripes), changed)).source([0])
    assert named in str(refused.value)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_stripes_beyond_their_mean(method, make):
    """Sixty updates: hidden patches are restored better than by the mean patch of each place."""
    updates = 60
    sizes = {
        "updates": updates,
        "batch_size": 16,
        "mask_ratio": 0.5,
        "decoder_width": 64,
        "views": AS_THEY_ARE,
    }
    experiment, layout = make(method, **sizes), Layout([0], 1)
    source = experiment.source([0])
    batches = jax.tree.map(
        lambda *leaves: np.stack(leaves), *(source.next(None, i) for i in range(updates))
    )
    source.close()
    state, _ = layout.updates(experiment)(layout.init(experiment), batches, 0, updates)
    error = experiment.evaluate(layout.learned(experiment, state)[0], jax.random.key(0))[
        "eval/masked_error"
    ]
    baseline = experiment.baselines(jax.random.key(0))["baseline/mean_patch_error"]
    assert error < 0.5 * baseline, (error, baseline)
