"""Time training steps of a BERT-like model in torch and print tokens per second as JSON.

Runs in the peer's virtual environment (see requirements-torch.txt beside this file);
`masked_speed.py` and `accelerator.py` start it:

    python transformer.py --width=256 --layers=4 --batch-size=32 --length=128 --vocabulary=4096 \
        --places=19 --dropout=0.1 --seconds=30

The blocks are torch's own. Rows are random and lie ready, corrupted, with the places to guess:
nothing is drawn but dropout. With `--masked`, attention stays within documents of random lengths,
by a mask that lies ready too.
"""

import argparse
import functools
import json

import timing
import torch
import torch.nn.functional as F
from torch import nn


class MaskedLanguageModel(nn.Module):
    """BERT's encoder, normalized before each layer, and its head.

    The head's last weights are those of the embedding.

    Args:
      width: of a token; a head of attention for every 64.
      layers: number of blocks.
      vocabulary: number of different tokens.
      length: of a row.
      dropout: of what attention and MLP add, and nowhere else.
    """

    def __init__(self, width: int, layers: int, vocabulary: int, length: int, dropout: float):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        gelu = functools.partial(F.gelu, approximate="tanh")
        block = nn.TransformerEncoderLayer(
            width,
            width // 64,
            4 * width,
            dropout,
            activation=gelu,
            batch_first=True,
            norm_first=True,
        )
        block.self_attn.dropout = 0.0  # of attention weights
        block.dropout = nn.Identity()  # within the MLP
        self.blocks = nn.TransformerEncoder(
            block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.transform = nn.Sequential(
            nn.Linear(width, width), nn.GELU(approximate="tanh"), nn.LayerNorm(width)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def encode(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Tokens [B, L, D] of rows [B, L]; the mask [B * heads, L, L] is added in attention."""
        return self.blocks(self.embed(tokens) + self.positions, mask)

    def guess(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits [B, M, V] at places [B, M] of encoded rows [B, L, D]."""
        x = x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))  # [B, M, D]
        return F.linear(self.transform(x), self.embed.weight, self.bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, required=True, help="of a token, a multiple of 64")
    parser.add_argument("--layers", type=int, required=True, help="blocks")
    parser.add_argument("--batch-size", type=int, required=True, help="rows")
    parser.add_argument("--length", type=int, required=True, help="tokens of a row")
    parser.add_argument("--vocabulary", type=int, required=True, help="different tokens")
    parser.add_argument("--places", type=int, required=True, help="tokens of a row to guess")
    parser.add_argument(
        "--dropout", type=float, required=True, help="share that each block drops of what it adds"
    )
    parser.add_argument("--masked", action="store_true", help="keep attention within documents")
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    device = args.device
    batch = args.batch_size
    length = args.length
    model = MaskedLanguageModel(args.width, args.layers, args.vocabulary, length, args.dropout)
    model = model.to(device)
    tokens = torch.randint(args.vocabulary, (batch, length)).to(device)
    labels = torch.randint(args.vocabulary, (batch, args.places)).to(device)
    places = torch.rand(batch, length).topk(args.places).indices.to(device)
    mask = None
    if args.masked:
        begins = torch.rand(batch, length) < 2 / length  # two borders in a row, on average
        document = begins.cumsum(1)
        apart = document[:, :, None] != document[:, None, :]
        mask = torch.zeros(batch, length, length).masked_fill(apart, -torch.inf)
        mask = mask.repeat_interleave(args.width // 64, 0)  # the same for all heads
        mask = mask.to(device, torch.bfloat16 if args.bfloat16 else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def update() -> torch.Tensor:
        with timing.encoding(device, args.bfloat16):
            encoded = model.encode(tokens, mask)
        logits = model.guess(encoded.float(), places)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, device)
    result["per_second"] = batch * length * result["updates_per_second"]
    result["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
