"""Time training steps of a BERT-like model in torch and print tokens per second as JSON.

Runs in the peer's virtual environment (see requirements-torch.txt beside this file);
`masked_speed.py` starts it:

    python transformer.py --width=256 --layers=4 --batch-size=32 --length=128 --vocabulary=4096 \
        --places=19 --dropout=0.1 --seconds=30

The blocks are torch's own. Rows are random and lie ready, corrupted, with the places to guess:
nothing is drawn but dropout. With `--masked`, attention stays within documents of random lengths,
by a mask that lies ready too.
"""

import argparse
import functools
import json
import statistics
import time

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

    def forward(
        self, tokens: torch.Tensor, places: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits [B, M, V] at places [B, M] of rows [B, L].

        The mask [B * heads, L, L] is added in attention.
        """
        x = self.blocks(self.embed(tokens) + self.positions, mask)  # [B, L, D]
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
    parser.add_argument(
        "--seconds", type=float, required=True, help="how long to measure, after three steps"
    )
    parser.add_argument("--masked", action="store_true", help="keep attention within documents")
    args = parser.parse_args()

    torch.manual_seed(0)
    batch = args.batch_size
    length = args.length
    model = MaskedLanguageModel(args.width, args.layers, args.vocabulary, length, args.dropout)
    tokens = torch.randint(args.vocabulary, (batch, length))
    labels = torch.randint(args.vocabulary, (batch, args.places))
    places = torch.rand(batch, length).topk(args.places).indices
    mask = None
    if args.masked:
        begins = torch.rand(batch, length) < 2 / length  # two borders in a row, on average
        document = begins.cumsum(1)
        apart = document[:, :, None] != document[:, None, :]
        mask = torch.zeros(batch, length, length).masked_fill(apart, -torch.inf)
        mask = mask.repeat_interleave(args.width // 64, 0)  # the same for all heads
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    seconds: list[float] = []
    end = None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        loss = F.cross_entropy(model(tokens, places, mask).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 3:
            end = time.perf_counter() + args.seconds
    steady = seconds[3:]
    result = {
        "per_second": batch * length / statistics.median(steady),
        "steps": len(steady),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": float(loss),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
