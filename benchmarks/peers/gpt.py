"""Time training steps of a GPT in torch and print tokens per second as JSON.

Runs in the peer's virtual environment (see requirements-torch.txt beside this file);
`gpt_speed.py` and `accelerator.py` start it:

    python gpt.py --width=128 --layers=4 --heads=4 --batch-size=12 --length=64 --vocabulary=69 \
        --seconds=30

Written out here: causal blocks with torch's own attention, learned positions, the embedding as last
weights, AdamW that decays matrices, gradients clipped to a length of 1. Rows are random and lie
ready.
"""

import argparse
import json
import math

import timing
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Causal self-attention and an MLP, each of which normalizes its input and adds to it.

    Args:
      width: of a token.
      heads: of attention.
      layers: of the network; what is added starts the smaller, the more there are.
    """

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        for layer in (self.qkv, self.mix, self.widen, self.narrow):
            small = layer in (self.mix, self.narrow)
            deviation = 0.02 / math.sqrt(2 * layers) if small else 0.02
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, D] to tokens [B, L, D]."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, D / heads]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = F.gelu(self.widen(self.mlp_norm(x)), approximate="tanh")
        return x + self.narrow(hidden)


class LanguageModel(nn.Module):
    """Embedded tokens and positions, blocks, and the embedding once more.

    Args:
      width: of a token.
      heads: of attention.
      layers: number of blocks.
      vocabulary: number of different tokens.
      length: of a row.
    """

    def __init__(self, width: int, heads: int, layers: int, vocabulary: int, length: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, layers) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, L, V] of what follows each token of rows [B, L]."""
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embed.weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, required=True, help="of a token")
    parser.add_argument("--layers", type=int, required=True, help="blocks")
    parser.add_argument("--heads", type=int, required=True, help="of attention")
    parser.add_argument("--batch-size", type=int, required=True, help="rows")
    parser.add_argument("--length", type=int, required=True, help="tokens of a row")
    parser.add_argument("--vocabulary", type=int, required=True, help="different tokens")
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    model = LanguageModel(args.width, args.heads, args.layers, args.vocabulary, args.length)
    model = model.to(args.device)
    shape = (args.batch_size, args.length + 1)
    rows = torch.randint(args.vocabulary, shape).to(args.device)
    inputs = rows[:, :-1].contiguous()
    targets = rows[:, 1:].flatten()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def update() -> torch.Tensor:
        with timing.encoding(args.device, args.bfloat16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    result["per_second"] = targets.numel() * result["updates_per_second"]
    result["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
