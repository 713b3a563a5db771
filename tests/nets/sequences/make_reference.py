"""Write what torch's LSTM and GRU make of random weights to reference.npz beside this file.

pip install torch==2.13.0 numpy && python make_reference.py
"""

from pathlib import Path

import numpy as np
import torch

ROWS, STEPS, WIDTH = 2, 6, 3


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(ROWS, STEPS, WIDTH)
    weights = torch.randn(ROWS, STEPS, WIDTH)  # of outputs in the loss
    arrays = {"x": x, "weights": weights}
    for name, layer in (("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)):
        net = layer(WIDTH, WIDTH, batch_first=True)
        given = x.clone().requires_grad_()
        y, _ = net(given)
        torch.sum(y * weights).backward()
        arrays |= {f"{name}.y": y, f"{name}.dx": given.grad}
        for part, parameter in net.named_parameters():
            arrays |= {f"{name}.{part}": parameter, f"{name}.d{part}": parameter.grad}
    found = {name: array.detach().numpy() for name, array in arrays.items()}
    np.savez(Path(__file__).parent / "reference.npz", **found)


if __name__ == "__main__":
    main()
