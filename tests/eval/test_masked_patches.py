"""The error on hidden patches is a mean over images, however many networks get at once."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.augment import masking
from missing_bits.augment.patches import Patches
from missing_bits.data.images import Split, in_memory
from missing_bits.eval import masked_patches, subsets
from missing_bits.eval.masked_patches import Restored

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (20, 8, 8, 1), np.uint8)
TEST = RNG.integers(0, 256, (17, 8, 8, 1), np.uint8)


def restorer(seen):
    """Return networks that predict the mean of an image everywhere; notes how many they get."""
    patches = Patches.cut((8, 8, 1), 4)

    def restore(params, x, masks):
        seen.append(len(x))
        means = jnp.mean(x, axis=(1, 2, 3))[:, None, None]
        return Restored(jnp.broadcast_to(means, (*masks.hidden.shape, 16)), means[:, 0])

    return types.SimpleNamespace(
        patches=patches,
        masks=lambda keys: patches.masks(keys, 0.5),
        restore=restore,
        targets=masking.unchanged,
        error=lambda predictions, values: jnp.mean(jnp.square(predictions - values)),
    )


@pytest.mark.parametrize(("at_once", "traced"), [(500, [17]), (5, [5, 2])])
def test_errors_are_means_over_images_however_many_are_read_at_once(at_once, traced, monkeypatch):
    """Of 17 test images three batches of 5 and one of 2; each size is traced once."""
    monkeypatch.setattr(subsets, "at_once", lambda shape: at_once)
    splits = (Split(TRAIN, None), Split(TEST, None))
    seen = []
    evaluation = masked_patches.evaluation(in_memory(*splits, ()), restorer(seen))
    found = evaluation.scores({}, jax.random.key(3), True)
    assert seen == traced

    patches = Patches.cut((8, 8, 1), 4)
    hidden = patches.masks(jax.random.split(jax.random.key(0), 17), 0.5).hidden
    x = TEST / np.float32(255)
    of_image = x.mean(axis=(1, 2, 3))[:, None, None]
    expected = np.mean((np.asarray(patches.at(jnp.asarray(x), hidden)) - of_image) ** 2)
    assert found == {"eval/masked_error": pytest.approx(expected, rel=1e-5)}

    mean = np.mean(TRAIN / np.float32(255), axis=0)
    expected = np.mean((x - mean) ** 2)  # every pixel is in one patch
    baselines = evaluation.baselines(jax.random.key(3))
    assert baselines == {"baseline/mean_patch_error": pytest.approx(expected, rel=1e-5)}
    assert evaluation.against == "mean patches"
