"""Time training steps of Barlow Twins in torch with lightly's loss; print pairs per second as JSON.

Runs in the peers' virtual environment (see requirements-vision.txt beside this file);
`barlow_speed.py` starts it:

    python barlow.py --batch-size=64 --projector=2048 --seconds=30

ResNet-18 of torchvision with a 3x3 stem and no pooling, as is usual for images of 32 pixels; the
views are random tensors that lie ready: no data loading and no augmentation are timed.
"""

import argparse
import json
import statistics
import time

import torch
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import nn
from torchvision.models import resnet18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, required=True, help="images, each in two views")
    parser.add_argument(
        "--projector", type=int, required=True, help="width of each of the projector's three layers"
    )
    parser.add_argument(
        "--seconds", type=float, required=True, help="how long to measure, after three steps"
    )
    parser.add_argument(
        "--channels-last", action="store_true", help="torch's other memory layout of images"
    )
    args = parser.parse_args()

    torch.manual_seed(0)
    backbone = resnet18()
    backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    backbone.maxpool = nn.Identity()
    backbone.fc = nn.Identity()
    model = nn.Sequential(backbone, BarlowTwinsProjectionHead(512, args.projector, args.projector))
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    views = [torch.randn(args.batch_size, 3, 32, 32).to(memory_format=layout) for _ in range(2)]
    criterion = BarlowTwinsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    seconds: list[float] = []
    end = None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        loss = criterion(model(views[0]), model(views[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 3:
            end = time.perf_counter() + args.seconds
    steady = seconds[3:]
    result = {
        "pairs_per_second": args.batch_size / statistics.median(steady),
        "steps": len(steady),
        "threads": torch.get_num_threads(),
        "loss": float(loss),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
