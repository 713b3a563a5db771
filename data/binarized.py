"""Images in black and white, for likelihoods of bits.

There are two protocols, whose figures must not be compared. Static: each pixel is white with a
probability that is its gray, drawn once, always the same (as Larochelle and Murray 2011 did for
MNIST). Dynamic: those for training are drawn anew whenever they are seen (Burda et al. 2016), those
for testing once.
"""

from typing import Literal

import numpy as np

from missing_bits.data.images import ImageSet, Split, in_memory
from missing_bits.errors import require

Protocol = Literal["none", "static", "dynamic"]
_LOOKED_AT = 1_000  # images, of those that are decoded when asked for
_AT_ONCE = 1_000


def load(data: ImageSet, protocol: Protocol) -> ImageSet:
    """A set under a protocol; its digest is that of the images that it gives.

    Args:
      data: gray or colored.
      protocol: "none" leaves the images as they are; "dynamic" those for training.

    Raises:
      UserError: images are decoded when asked for, which keeps no draw.
    """
    if protocol == "none":
        return data
    splits = (data.train, data.test, data.labeled)
    in_arrays = all(isinstance(split.images, np.ndarray) for split in splits)
    require(
        in_arrays,
        f"--binarize={protocol} keeps what it draws, but these images are decoded when asked for; "
        "give a set that fits into memory.",
    )
    train = data.train if protocol == "dynamic" else _drawn(data.train, 0)
    probe = None if data.probe is None else _drawn(data.probe, 2)
    return in_memory(train, _drawn(data.test, 1), data.classes, probe)


def are_binary(split: Split) -> bool:
    """Whether all images are of 0 and 255 alone; of those decoded when asked for, some are read."""
    images = split.images
    count = images.shape[0]
    looked_at = count if isinstance(images, np.ndarray) else min(count, _LOOKED_AT)
    for start in range(0, looked_at, _AT_ONCE):
        some = images[np.arange(start, min(start + _AT_ONCE, looked_at))]
        if not ((some == 0) | (some == 255)).all():
            return False
    return True


def _drawn(split: Split, seed: int) -> Split:
    """The split with each pixel 255 with the probability pixel / 255, else 0."""
    rng = np.random.default_rng(seed)
    found = np.empty_like(split.images)
    for start in range(0, len(found), _AT_ONCE):
        some = split.images[start : start + _AT_ONCE]
        white = rng.random(some.shape, np.float32) * 255 < some
        found[start : start + _AT_ONCE] = np.where(white, 255, 0)
    return split._replace(images=found)
