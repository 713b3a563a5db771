"""The options of an encoder of images: what they make, what they refuse, and where it starts."""

import typing

import jax
import numpy as np
import pytest

from missing_bits.data import images
from missing_bits.encoders import files
from missing_bits.encoders.images import Encoder, ImageEncoder
from missing_bits.errors import UserError
from missing_bits.nets import vision


def set_of(height, width):
    """A set of three images whose red pixels are 51 of 255, green ones 102, and blue ones 0."""
    pixels = np.zeros((3, height, width, 3), np.uint8)
    pixels[..., 0] = 51
    pixels[..., 1] = 102
    split = images.Split(pixels, np.zeros(3, np.int32))
    return images.in_memory(split, split, ("all",))


def test_an_encoder_fits_the_images_it_is_made_for():
    """Deviations are at least 1 / 255."""
    settings = Encoder(network="vit_nano", patch=2, bfloat16=True)
    encoder = settings.make(set_of(6, 8))
    assert (encoder.network, encoder.image_shape) == ("vit_nano", (6, 8, 3))
    assert (encoder.patch, encoder.bfloat16) == (2, True)
    np.testing.assert_allclose(encoder.mean, [0.2, 0.4, 0.0], atol=1e-12)
    np.testing.assert_allclose(encoder.std, [1 / 255] * 3)


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(UserError, match="patches of 4 x 4 pixels, but they are 6 x 8"):
        Encoder(network="vit_nano").make(set_of(6, 8))


def test_every_network_can_be_chosen():
    choices = typing.get_args(typing.get_type_hints(Encoder)["network"])
    assert sorted(choices) == sorted(vision.NAMES)
    for network in choices:
        Encoder(network=network).check("")


def test_bad_settings_are_named():
    with pytest.raises(
        UserError, match=r"^--student.network=vgg is unknown; it is one of convnet,"
    ):
        Encoder(network="vgg").check("student.")
    with pytest.raises(UserError, match=r"^--patch is -1; give a number of pixels, or 0"):
        Encoder(patch=-1).check("")


def test_networks_without_patches_are_refused_where_patches_are_masked():
    for network in ("vit_nano", "vit_micro", "vit_tiny", "vit_small"):
        Encoder(network=network).check_patches()
    told = (
        "--student.network=resnet18 has no patches to mask; "
        "choose one of vit_nano, vit_micro, vit_tiny, vit_small."
    )
    with pytest.raises(UserError) as error:
        Encoder(network="resnet18").check_patches("student.")
    assert str(error.value) == told


def test_an_encoder_starts_from_a_run_or_afresh(tmp_path):
    encoder = ImageEncoder("vit_nano", (8, 8, 1), (0.5,), (0.2,))
    variables = jax.device_get(jax.jit(encoder.init)(jax.random.key(0)))
    files.save(tmp_path / "encoder" / "seed0.safetensors", encoder, variables, {})
    assert files.start(encoder, "") is None
    jax.tree.map(np.testing.assert_array_equal, files.start(encoder, str(tmp_path)), variables)
    other = ImageEncoder("vit_nano", (8, 8, 1), (0.5,), (0.2,), patch=2)
    with pytest.raises(UserError, match="holds an encoder whose patch is 0; this run needs 2"):
        files.start(other, str(tmp_path))
