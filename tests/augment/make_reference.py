"""Write reference.npz beside this file: what torchvision's tensor operations make of a few images.

    python make_reference.py

Runs where torch and torchvision are (torch 2.14.1 and torchvision 0.29.1 made the stored file); no
test needs them. Arrays are named image/operation/parameters, images float32 in [0, 1] with channels
first, [C, H, W].
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional

FACTORS = (0.0, 0.6, 1.3)
SHIFTS = (-0.5, -0.1, 0.07, 0.5)
SIGMAS = (0.1, 0.9, 2.0)
# top, left, height, width of the crop; height, width of the result. The last two make images
# smaller.
CROPS = {
    "color": (
        (0, 0, 16, 16, 16, 16),
        (3, 5, 7, 9, 16, 16),
        (15, 0, 1, 16, 16, 16),
        (2, 1, 12, 15, 9, 5),
    ),
    "odd": ((4, 2, 9, 17, 13, 21), (0, 0, 13, 21, 13, 21), (1, 3, 12, 16, 5, 7)),
    "gray": ((1, 2, 5, 6, 11, 14), (0, 3, 11, 10, 4, 14)),
}


def images() -> dict[str, np.ndarray]:
    """Return smooth images under noise, [C, H, W].

    The first rows of the colored ones hold the cube's corners.
    """
    rng = np.random.default_rng(0)
    made = {}
    for name, (channels, height, width) in {
        "color": (3, 16, 16),
        "odd": (3, 13, 21),
        "gray": (1, 11, 14),
    }.items():
        waves = rng.uniform(-0.5, 0.5, (channels, 2, 1, 1)) * np.stack(np.mgrid[:height, :width])
        smooth = 0.5 + 0.4 * np.sin(waves.sum(axis=1) + rng.uniform(0, 6, (channels, 1, 1)))
        image = np.round(255 * np.clip(smooth + rng.normal(0, 0.1, smooth.shape), 0, 1)) / 255
        if channels == 3:
            image[:, 0, :8] = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)))
            image[:, 1, :3] = [[0.5, 0.2, 127 / 255], [0.5, 0.2, 128 / 255], [0.5, 0.7, 129 / 255]]
        made[name] = image.astype(np.float32)
    return made


def main() -> None:
    stored = {}
    for name, image in images().items():
        x = torch.from_numpy(image)
        size = min(image.shape[1:])
        kernel = 2 * max(1, round(size / 20)) + 1
        results = {
            "input": x,
            "solarize": functional.solarize(x, 0.5),
            "flip": functional.horizontal_flip(x),
        }
        for factor in FACTORS:
            results[f"brightness/{factor}"] = functional.adjust_brightness(x, factor)
            results[f"contrast/{factor}"] = functional.adjust_contrast(x, factor)
            results[f"saturation/{factor}"] = functional.adjust_saturation(x, factor)
        for sigma in SIGMAS:
            results[f"blur/{sigma}"] = functional.gaussian_blur(x, [kernel, kernel], [sigma, sigma])
        for top, left, height, width, *out in CROPS[name]:
            box = "_".join(map(str, (top, left, height, width, *out)))
            results[f"crop/{box}"] = functional.resized_crop(x, top, left, height, width, out)
        if len(x) == 3:
            results["luma"] = functional.rgb_to_grayscale(x)
            results["normalize"] = functional.normalize(x, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
            for shift in SHIFTS:
                results[f"hue/{shift}"] = functional.adjust_hue(x, shift)
            chain = functional.adjust_contrast(functional.adjust_hue(x, 0.1), 1.4)
            results["chain"] = functional.adjust_brightness(
                functional.adjust_saturation(chain, 0.8), 1.4
            )
        stored |= {f"{name}/{operation}": result.numpy() for operation, result in results.items()}
    # A kernel as wide as those of large images: 7 of 60.
    x = torch.from_numpy(np.random.default_rng(1).random((1, 60, 64), np.float32))
    stored["large/input"] = x.numpy()
    stored["large/blur/1.7"] = functional.gaussian_blur(x, [7, 7], [1.7, 1.7]).numpy()
    np.savez_compressed(Path(__file__).with_name("reference.npz"), **stored)


if __name__ == "__main__":
    main()
