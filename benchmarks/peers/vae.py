"""Time training steps of a variational autoencoder in torch; print updates per second as JSON.

Needs torch alone (requirements-torch.txt beside this file); `generative_speed.py` and
`accelerator.py` start it:

    python vae.py --batch-size=128 --side=28 --channels=1 --latent=32 --width=32 --seconds=5

The networks are those of --exp=vae by default: convolutions of stride 2 and a layer to 256
features, a layer to the posterior; back by repeated pixels and convolutions. Images are random
bits, which lie ready; the latents' noise is drawn in the update.
"""

import argparse
import json

import timing
import torch
import torch.nn.functional as F
from torch import nn

LARGEST_MAP = 8  # pixels: the side of the smallest map, at most
FEATURES = 256


def encoder(side: int, channels: int) -> nn.Sequential:
    """Images [B, C, H, W] to features [B, 256]."""
    layers: list[nn.Module] = []
    width = 32
    while side > LARGEST_MAP or not layers:
        layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.SiLU()]
        channels = width
        width *= 2
        side //= 2
    layers += [nn.Flatten(), nn.Linear(channels * side**2, FEATURES), nn.SiLU()]
    return nn.Sequential(*layers)


def decoder(side: int, channels: int, latent: int, width: int) -> nn.Sequential:
    """Latents [B, Z] to logits [B, C, H, W]."""
    stages = 1
    while side // 2**stages > LARGEST_MAP:
        stages += 1
    least = side // 2**stages
    wide = width * 2**stages
    layers: list[nn.Module] = [nn.Linear(latent, wide * least**2), nn.SiLU()]
    layers.append(nn.Unflatten(1, (wide, least, least)))
    for _ in range(stages):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, wide // 2, 3, padding=1), nn.SiLU()]
        wide //= 2
    return nn.Sequential(*layers, nn.Conv2d(wide, channels, 3, padding=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, required=True, help="images")
    parser.add_argument("--side", type=int, required=True, help="pixels, a multiple of 4")
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--latent", type=int, required=True, help="numbers in a latent")
    parser.add_argument("--width", type=int, required=True, help="channels of the last map")
    parser.add_argument("--channels-last", action="store_true", help="lay images out so")
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    place = {"device": args.device, "memory_format": layout}
    encode = encoder(args.side, args.channels).to(**place)
    posterior = nn.Linear(FEATURES, 2 * args.latent).to(args.device)
    decode = decoder(args.side, args.channels, args.latent, args.width).to(**place)
    size = (args.batch_size, args.channels, args.side, args.side)
    x = torch.randint(0, 2, size, device=args.device).float().to(memory_format=layout)
    modules = (encode, posterior, decode)
    optimizer = timing.adamw([p for module in modules for p in module.parameters()], args.device)

    def update() -> torch.Tensor:
        with timing.encoding(args.device, args.bfloat16):
            features = encode(x)
        mean, log_variance = posterior(features.float()).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        error = F.binary_cross_entropy_with_logits(decode(z), x, reduction="none")
        loss = (error.flatten(1).sum(dim=1) + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    result["parameters"] = sum(p.numel() for module in modules for p in module.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
