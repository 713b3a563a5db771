"""Draw pairs of views with torchvision + lightly in a DataLoader; print pairs per second as JSON.

Runs in the peers' virtual environment (see requirements-vision.txt beside this file);
`augment_speed.py` starts it:

    python augment.py --settings='{"side": 32, ...}'

The transforms are lightly's for BYOL, which its examples of Barlow Twins use, on PIL images, as it
documents them.
"""

import argparse
import json
import time

import numpy as np
import torch
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pairs(Dataset):
    """Two views of each of some images.

    Args:
      images: [N, H, W, 3] uint8.
      transform: makes a list of two tensors of a PIL image.
    """

    def __init__(self, images: np.ndarray, transform: BYOLTransform):
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[index]))


def transform(s: dict) -> BYOLTransform:
    """Return the two views' transforms."""
    common = {
        "input_size": s["side"],
        "cj_prob": s["jitter"],
        "cj_bright": s["brightness"],
        "cj_contrast": s["contrast"],
        "cj_sat": s["saturation"],
        "cj_hue": s["hue"],
        "min_scale": s["crop_scale"][0],
        "random_gray_scale": s["gray"],
        "gaussian_blur": 0.0,
        "hf_prob": s["flip"],
        "normalize": {"mean": s["mean"], "std": s["std"]},
    }
    first, second = s["solarize"]
    return BYOLTransform(
        BYOLView1Transform(solarization_prob=first, **common),
        BYOLView2Transform(solarization_prob=second, **common),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="those of augment_speed.py, as JSON"
    )
    parser.add_argument("--batches", type=int, required=True, help="batches that are timed")
    parser.add_argument(
        "--warmup",
        type=int,
        default=6,
        help="batches before: workers start, and have some in store",
    )
    args = parser.parse_args()
    s = args.settings
    count = s["batch_size"] * (args.warmup + args.batches)
    images = np.random.default_rng(0).integers(0, 256, (count, s["side"], s["side"], 3), np.uint8)
    loader = DataLoader(
        Pairs(images, transform(s)),
        s["batch_size"],
        shuffle=True,
        num_workers=s["workers"],
        drop_last=True,
    )
    batches = iter(loader)
    for _ in range(args.warmup):
        next(batches)
    start = time.perf_counter()
    for x_a, x_b in batches:
        assert x_a.shape == x_b.shape == (s["batch_size"], 3, s["side"], s["side"])
    seconds = time.perf_counter() - start
    print(json.dumps({"pairs_per_second": args.batches * s["batch_size"] / seconds}))


if __name__ == "__main__":
    main()
