"""Time training steps of Barlow Twins in torch with lightly's loss; print pairs per second as JSON.

Runs in the peers' virtual environment (see requirements-vision.txt beside this file);
`barlow_speed.py` and `accelerator.py` start it:

    python barlow.py --batch-size=64 --projector=2048 --seconds=30

ResNets of torchvision. Images of less than 64 pixels get a 3x3 stem and no pooling, as is usual for
images of 32 pixels. The views are random tensors that lie ready: no data loading and no
augmentation are timed. Where lightly is not installed, its projector and its loss are written out.
"""

import argparse
import json

import timing
import torch
import torchvision
from torch import nn

try:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
except ImportError:

    class BarlowTwinsProjectionHead(nn.Sequential):
        """As lightly's: two layers with batch normalization and ReLU, and a linear one."""

        def __init__(self, inputs: int, hidden: int, outputs: int):
            super().__init__(
                nn.Linear(inputs, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, outputs),
            )

    class BarlowTwinsLoss(nn.Module):
        """As lightly's, on one device: equation 1 of the paper, lambda 0.005."""

        def forward(self, z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
            z_a = (z_a - z_a.mean(0)) / z_a.std(0)
            z_b = (z_b - z_b.mean(0)) / z_b.std(0)
            c = z_a.T @ z_b / len(z_a)
            invariance = torch.diagonal(c).add(-1).square().sum()
            redundancy = c.square().sum() - torch.diagonal(c).square().sum()
            return invariance + 5e-3 * redundancy


def backbone(network: str, side: int) -> tuple[nn.Module, int]:
    """A ResNet for images of `side` pixels that ends with its features, and their number."""
    model = getattr(torchvision.models, network)()
    features = model.fc.in_features
    model.fc = nn.Identity()
    if side < 64:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, required=True, help="images, each in two views")
    parser.add_argument(
        "--projector", type=int, required=True, help="width of each of the projector's three layers"
    )
    parser.add_argument("--network", choices=["resnet18", "resnet50"], default="resnet18")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument(
        "--channels-last", action="store_true", help="torch's other memory layout of images"
    )
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    encoder, features = backbone(args.network, args.side)
    projector = BarlowTwinsProjectionHead(features, args.projector, args.projector)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    encoder = encoder.to(args.device, memory_format=layout)
    projector = projector.to(args.device)
    shape = (args.batch_size, 3, args.side, args.side)
    views = [torch.randn(shape).to(args.device, memory_format=layout) for _ in range(2)]
    criterion = BarlowTwinsLoss()
    optimizer = timing.adamw([*encoder.parameters(), *projector.parameters()], args.device)

    def embed(view: torch.Tensor) -> torch.Tensor:
        with timing.encoding(args.device, args.bfloat16):
            y = encoder(view)
        return projector(y.float())

    def update() -> torch.Tensor:
        loss = criterion(embed(views[0]), embed(views[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    result["pairs_per_second"] = args.batch_size * result["updates_per_second"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
