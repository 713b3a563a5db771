"""Writes what PyTorch Geometric's layers make of a small graph into graph_reference.npz.

It is run by hand, where torch_geometric is installed: python tests/nets/make_graph_reference.py.
Written with torch_geometric 2.8.1 and torch 2.14.1. The graph has an isolated node, a node with an
edge to itself, and an edge that stands twice.
"""

import pathlib

import numpy as np
import torch
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, GINConv, SAGEConv

torch.manual_seed(0)
NODES, FEATURES, SIZE, HEADS = 7, 4, 3, 2
senders = np.array([0, 1, 2, 2, 3, 4, 4, 1, 5, 0])
receivers = np.array([1, 0, 1, 3, 2, 0, 4, 2, 0, 5])  # 4 -> 4; node 6 is alone
x = torch.randn(NODES, FEATURES)
edges = torch.tensor(np.stack([senders, receivers]))
twice = torch.cat([edges, edges[:, 2:3]], dim=1)
mlp = torch.nn.Sequential(
    torch.nn.Linear(FEATURES, SIZE), torch.nn.ReLU(), torch.nn.Linear(SIZE, SIZE)
)
layers = {
    "gcn": GCNConv(FEATURES, SIZE),
    "sage": SAGEConv(FEATURES, SIZE),
    "gat": GATConv(FEATURES, SIZE, heads=HEADS),
    "gatv2": GATv2Conv(FEATURES, SIZE, heads=HEADS),
    "gin": GINConv(mlp, eps=0.3),
}
stored = {"x": x.numpy(), "senders": senders, "receivers": receivers}
for name, layer in layers.items():
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    if name == "gatv2":  # ours has no biases before the sum
        torch.nn.init.zeros_(layer.lin_l.bias)
        torch.nn.init.zeros_(layer.lin_r.bias)
    layer.eval()
    for weight, value in layer.state_dict().items():
        stored[f"{name}.{weight}"] = value.numpy()
    stored[f"{name}.y"] = layer(x, edges).detach().numpy()
    if name in ("sage", "gin"):
        stored[f"{name}.twice"] = layer(x, twice).detach().numpy()
np.savez(pathlib.Path(__file__).parent / "graph_reference.npz", **stored)
