"""Time training steps of a masked autoencoder in torch; print updates per second as JSON.

Needs torch alone (requirements-torch.txt beside this file); `accelerator.py` starts it:

    python mae.py --width=384 --layers=12 --decoder-width=512 --decoder-layers=8 \
        --decoder-heads=16 --batch-size=128 --side=224 --patch=16 --mask-ratio=0.75 --seconds=5

The blocks are torch's own. Patches of random images and the masks lie ready: no data loading and no
augmentation are timed.
"""

import argparse
import functools
import json

import timing
import torch
import torch.nn.functional as F
from torch import nn


def blocks(width: int, heads: int, layers: int) -> nn.TransformerEncoder:
    """A stack of blocks, normalized before each layer, without dropout."""
    gelu = functools.partial(F.gelu, approximate="tanh")
    block = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, activation=gelu, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(
        block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
    )


def chosen(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The rows [B, K, D] of x [B, L, D] at places [B, K]."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


class Encoder(nn.Module):
    """A vision transformer on the visible patches, with fixed positions and a class token.

    Args:
      patches: in an image.
      numbers: in a patch.
      width: of a token; a head of attention for every 64.
      layers: number of blocks.
    """

    def __init__(self, patches: int, numbers: int, width: int, layers: int):
        super().__init__()
        self.embed = nn.Linear(numbers, width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", torch.randn(1, patches, width))
        self.blocks = blocks(width, width // 64, layers)

    def forward(self, patches: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 1 + K, D] of the visible ones of patches [B, L, P]."""
        positions = self.positions.expand(len(patches), -1, -1)
        x = self.embed(chosen(patches, kept)) + chosen(positions, kept)
        return self.blocks(torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1))


class Decoder(nn.Module):
    """Predicts hidden patches from the tokens of visible ones.

    Args:
      patches: in an image.
      numbers: in a patch.
      inputs: width of the encoder's tokens.
      width: of its own.
      layers: number of blocks.
      heads: of attention.
    """

    def __init__(
        self, patches: int, numbers: int, inputs: int, width: int, layers: int, heads: int
    ):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("positions", torch.randn(1, patches, width))
        self.blocks = blocks(width, heads, layers)
        self.patches = nn.Linear(width, numbers)

    def forward(
        self, tokens: torch.Tensor, kept: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Predictions [B, M, P] from tokens [B, 1 + K, D]."""
        x = self.embed(tokens)
        positions = self.positions.expand(len(x), -1, -1)
        visible = x[:, 1:] + chosen(positions, kept)
        guessed = self.mask_token + chosen(positions, hidden)
        x = self.blocks(torch.cat([x[:, :1], visible, guessed], dim=1))
        return self.patches(x[:, -hidden.shape[1] :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, required=True, help="of a token, a multiple of 64")
    parser.add_argument("--layers", type=int, required=True, help="blocks of the encoder")
    parser.add_argument("--decoder-width", type=int, required=True)
    parser.add_argument("--decoder-layers", type=int, required=True)
    parser.add_argument("--decoder-heads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="images")
    parser.add_argument("--side", type=int, required=True, help="of the images, in pixels")
    parser.add_argument("--patch", type=int, required=True, help="side of a patch, in pixels")
    parser.add_argument("--mask-ratio", type=float, required=True, help="share that is hidden")
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    count = (args.side // args.patch) ** 2
    numbers = 3 * args.patch**2
    encoder = Encoder(count, numbers, args.width, args.layers).to(args.device)
    decoder = Decoder(
        count, numbers, args.width, args.decoder_width, args.decoder_layers, args.decoder_heads
    ).to(args.device)
    patches = torch.randn(args.batch_size, count, numbers, device=args.device)
    order = torch.rand(args.batch_size, count, device=args.device).argsort(dim=1)
    visible = count - round(args.mask_ratio * count)
    kept = order[:, :visible]
    hidden = order[:, visible:]
    optimizer = timing.adamw([*encoder.parameters(), *decoder.parameters()], args.device)

    def update() -> torch.Tensor:
        with timing.encoding(args.device, args.bfloat16):
            tokens = encoder(patches, kept)
        predictions = decoder(tokens.float(), kept, hidden)
        targets = chosen(patches, hidden)
        deviation = targets.var(dim=2, keepdim=True).add(1e-6).sqrt()
        targets = (targets - targets.mean(dim=2, keepdim=True)) / deviation
        loss = F.mse_loss(predictions, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    modules = (encoder, decoder)
    result["parameters"] = sum(p.numel() for module in modules for p in module.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
