"""Time training steps of a generative adversarial network in torch; print updates per second.

Needs torch alone (requirements-torch.txt beside this file); `generative_speed.py` and
`accelerator.py` start it:

    python gan.py --batch-size=64 --side=28 --channels=1 --latent=64 --width=32 --seconds=5 --r1

The networks are those of --exp=gan by default: two hidden layers, up by repeated pixels and
convolutions with batch normalization, down by convolutions of stride 2. An update moves the
discriminator, then the generator, by images of the same latents, and the moving average of the
generator. Real images are random and lie ready; latents are drawn in the update.
"""

import argparse
import copy
import json

import timing
import torch
import torch.nn.functional as F
from torch import nn

LARGEST_MAP = 8  # pixels: the side of the generator's smallest map, at most
SLOPE = 0.2  # of the leaky ReLU


def generator(side: int, channels: int, latent: int, width: int) -> nn.Sequential:
    """Latents [B, Z] to images [B, C, H, W] in [-1, 1]."""
    stages = 1
    while side // 2**stages > LARGEST_MAP:
        stages += 1
    least = side // 2**stages
    wide = width * 2**stages
    hidden = 8 * width
    layers: list[nn.Module] = [
        *(nn.Linear(latent, hidden), nn.BatchNorm1d(hidden), nn.SiLU()),
        *(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.SiLU()),
        *(nn.Linear(hidden, wide * least**2), nn.Unflatten(1, (wide, least, least))),
    ]
    layers += [nn.BatchNorm2d(wide), nn.SiLU()]
    for _ in range(stages):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, wide // 2, 3, padding=1)]
        wide //= 2
        layers += [nn.BatchNorm2d(wide), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(wide, channels, 3, padding=1), nn.Tanh())


def discriminator(side: int, channels: int, width: int) -> nn.Sequential:
    """Images [B, C, H, W] to logits [B, 1]."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(SLOPE)),
        *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(SLOPE)),
        *(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.LeakyReLU(SLOPE)),
        *(nn.Flatten(), nn.Linear(4 * width * (side // 4) ** 2, 1)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, required=True, help="images of each kind")
    parser.add_argument("--side", type=int, required=True, help="pixels, a multiple of 4")
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--latent", type=int, required=True, help="numbers in a latent")
    parser.add_argument("--width", type=int, required=True, help="channels at full resolution")
    parser.add_argument("--r1", action="store_true", help="penalize the slope at real images")
    parser.add_argument("--channels-last", action="store_true", help="lay images out so")
    timing.add_options(parser)
    args = parser.parse_args()
    if args.bfloat16:
        parser.error("both sides compute in float32")

    timing.prepare(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    place = {"device": args.device, "memory_format": layout}
    make = generator(args.side, args.channels, args.latent, args.width).to(**place)
    judge = discriminator(args.side, args.channels, args.width).to(**place)
    average = copy.deepcopy(make).requires_grad_(False)
    size = (args.batch_size, args.channels, args.side, args.side)
    real = (2 * torch.rand(size, device=args.device) - 1).to(memory_format=layout)
    makes = timing.adamw(list(make.parameters()), args.device)
    judges = timing.adamw(list(judge.parameters()), args.device)

    def update() -> torch.Tensor:
        fake = make(torch.randn(args.batch_size, args.latent, device=args.device))
        x = real.detach().requires_grad_(args.r1)
        of_real = judge(x)
        loss = (F.softplus(-of_real) + F.softplus(judge(fake.detach()))).mean()
        if args.r1:
            (slopes,) = torch.autograd.grad(of_real.sum(), x, create_graph=True)
            loss = loss + slopes.square().flatten(1).sum(dim=1).mean() / 2
        judges.zero_grad()
        loss.backward()
        judges.step()

        judge.requires_grad_(False)  # its gradients are not needed for the generator's step
        makes.zero_grad()
        F.softplus(-judge(fake)).mean().backward()
        makes.step()
        judge.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(make.parameters()), 0.001)
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    networks = (make, judge)
    result["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
