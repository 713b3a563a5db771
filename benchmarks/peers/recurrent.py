"""Time training steps of torch's LSTM or GRU and print steps per second as JSON.

Runs in the peer's virtual environment (see requirements-torch.txt beside this file);
`sequence_speed.py` starts it:

    python recurrent.py --layer=lstm --width=128 --batch-size=64 --length=128 --seconds=10

A step is one layer over random inputs, the gradient of the sum of its squares to weights and
inputs, and nothing else.
"""

import argparse
import json

import timing
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=["lstm", "gru"], required=True)
    parser.add_argument("--width", type=int, required=True, help="of inputs and states")
    parser.add_argument("--batch-size", type=int, required=True, help="rows")
    parser.add_argument("--length", type=int, required=True, help="steps of a row")
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[args.layer]
    model = layer(args.width, args.width, batch_first=True).to(args.device)
    x = torch.randn(args.batch_size, args.length, args.width, device=args.device)
    x.requires_grad_()

    def update() -> torch.Tensor:
        with timing.encoding(args.device, args.bfloat16):
            y, _ = model(x)
        loss = y.float().square().sum()
        model.zero_grad()
        x.grad = None
        loss.backward()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    result["parameters"] = sum(p.numel() for p in model.parameters())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
