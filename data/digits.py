"""scikit-learn's handwritten digits (Alpaydin and Kaynak 1998): gray images in 17 levels.

The 1,797 images of 8x8 pixels are enlarged to 16x16 bilinearly: that adds nothing to what they
show, but leaves networks that halve their images twice a map of 4x4. 1,297 train and 500 test, each
class in proportion, the same in every run.
"""

import numpy as np

from missing_bits.data.images import ImageSet, Split, in_memory


def load() -> ImageSet:
    """The digits."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    levels, labels = load_digits(return_X_y=True)
    enlarge = np.stack(
        [np.interp(np.arange(16) / 2 - 0.25, np.arange(8), row) for row in np.eye(8)], axis=1
    )  # [16, 8]
    images = enlarge @ levels.reshape(-1, 8, 8) @ enlarge.T  # [N, 16, 16], 0 to 16
    images = np.rint(images * 255 / 16).astype(np.uint8)[..., None]  # [N, 16, 16, 1]
    labels = labels.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=500, stratify=labels, random_state=0
    )
    train.sort()
    test.sort()
    return in_memory(
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        tuple("0123456789"),
    )
