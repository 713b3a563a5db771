"""Time training steps of PyTorch Geometric's GCN and print steps per second as JSON.

Runs in the peer's virtual environment (see requirements-graphs.txt beside this file);
`graph_speed.py` and `accelerator.py` start it:

    python gcn.py --nodes=20000 --edges=200000 --features=64 --width=64 --classes=16 --seconds=10

A step is two layers on a random graph, cross-entropy of all nodes, its gradient and Adam. The
normalization is computed once (`cached=True`).
"""

import argparse
import json
import resource

import timing
import torch
from torch_geometric.nn import GCNConv


class GCN(torch.nn.Module):
    """Two layers with a ReLU between them."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = GCNConv(features, width, cached=True)
        self.second = GCNConv(width, classes, cached=True)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Logits [N, K]."""
        return self.second(self.first(x, edges).relu(), edges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("nodes", "edges", "features", "width", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    timing.add_options(parser)
    args = parser.parse_args()

    timing.prepare(args.device)
    model = GCN(args.features, args.width, args.classes).to(args.device)
    x = torch.randn(args.nodes, args.features, device=args.device)
    edges = torch.randint(args.nodes, (2, args.edges), device=args.device)
    labels = torch.randint(args.classes, (args.nodes,), device=args.device)
    optimizer = timing.adamw(list(model.parameters()), args.device)

    def update() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x, edges), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    result = timing.measure(update, args.seconds, args.device)
    result["parameters"] = sum(p.numel() for p in model.parameters())
    result["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
