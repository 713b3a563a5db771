"""Pictures of graphs: nodes and their classes, attention on edges, accuracy by distance.

Each function writes one PNG file. Shapes: N nodes, E edges.
"""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse import csgraph

from missing_bits.data.graphs import GraphSet
from missing_bits.pictures import canvas

_DRAWN = 150  # nodes, at most
_STEPS = 300  # of the layout
_SHOWN = 8  # graphs beside each other


def layout(senders: np.ndarray, receivers: np.ndarray, count: int) -> np.ndarray:
    """Where to draw nodes, [N, 2], the same at every call.

    Linked ones pull each other by the square of their distance, all push each other by its inverse
    (Fruchterman and Reingold 1991).
    """
    place = np.random.default_rng(0).uniform(-1, 1, (count, 2))
    near = np.sqrt(4 / max(count, 1))
    linked = np.zeros((count, count))
    linked[receivers, senders] = 1
    linked[senders, receivers] = 1
    for step in range(_STEPS):
        apart = place[:, None] - place[None]  # [N, N, 2]
        distance = np.maximum(np.linalg.norm(apart, axis=2), 1e-3)
        force = near**2 / distance**2 - linked * distance / near
        move = np.sum(apart * force[:, :, None], axis=1) - 0.05 * place
        length = np.maximum(np.linalg.norm(move, axis=1, keepdims=True), 1e-9)
        place += move / length * np.minimum(length, 0.2 * (1 - step / _STEPS))
    return place


def near_nodes(data: GraphSet, start: int) -> np.ndarray:
    """Nodes around one, the nearest first, then those it is not linked with; at most as many as are
    drawn, in their order."""
    order, _ = csgraph.breadth_first_order(_adjacency(data), start, directed=False)
    others = np.setdiff1d(np.arange(data.num_nodes), order)
    return np.sort(np.concatenate([order, others])[:_DRAWN])


def _adjacency(data: GraphSet) -> Any:
    ones = np.ones(len(data.senders))
    shape = (data.num_nodes, data.num_nodes)
    return scipy.sparse.csr_matrix((ones, (data.receivers, data.senders)), shape=shape)


def distances(data: GraphSet) -> np.ndarray:
    """Links from each node to the nearest one that is learned from, [N]; infinity for none."""
    return csgraph.dijkstra(
        _adjacency(data), directed=False, indices=data.train, unweighted=True, min_only=True
    )


def classes(data: GraphSet, guesses: np.ndarray, attention: np.ndarray | None, path: Path) -> None:
    """Draws nodes as they were classified, beside their true classes.

    Of a large graph, the surroundings of its most linked test node are drawn. Nodes that are
    learned from are squares. Edges are as dark as the attention on them, if there is any.

    Args:
      data: one graph.
      guesses: [N], classes.
      attention: [E, H]; None for none.
      path: the file to write.
    """
    degrees = np.bincount(data.receivers, minlength=data.num_nodes)
    start = int(data.test[np.argmax(degrees[data.test])])
    drawn = near_nodes(data, start)
    new = np.full(data.num_nodes, -1)
    new[drawn] = np.arange(len(drawn))
    inside = (new[data.senders] >= 0) & (new[data.receivers] >= 0)
    senders = new[data.senders[inside]]
    receivers = new[data.receivers[inside]]
    place = layout(senders, receivers, len(drawn))
    strength = np.full(len(senders), 0.35)
    if attention is not None:
        weight = attention.mean(axis=1)[inside]
        strength = 0.05 + 0.9 * weight / max(weight.max(initial=0), 1e-9)
    figure = canvas.figure(figsize=(12, 6), layout="constrained")
    for axes, labels, title in zip(
        figure.subplots(1, 2),
        (guesses, data.labels),
        ("as predicted, wrong ones ringed", "true classes"),
        strict=True,
    ):
        _edges(axes, place, senders, receivers, strength)
        wrong = (guesses != data.labels)[drawn] & (data.labels[drawn] >= 0)
        _nodes(axes, place, labels[drawn], np.isin(drawn, data.train), wrong & (labels is guesses))
        axes.set_title(title)
    shown = data.classes[: len(canvas.COLORS)]
    handles = [
        figure.axes[0].scatter([], [], c=_color(one), label=canvas.name(name, 24))
        for one, name in enumerate(shown)
    ]
    if len(shown) < len(data.classes):
        more = f"{len(data.classes) - len(shown):,} more in the same colors"
        handles.append(figure.axes[0].scatter([], [], c=canvas.WHITE, label=more))
    if (data.labels[drawn] < 0).any():
        handles.append(figure.axes[0].scatter([], [], c=_color(-1), label="no label"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    of = "" if len(drawn) == data.num_nodes else f" of {data.num_nodes:,}"
    edges = ", edges by attention" if attention is not None else ""
    figure.suptitle(f"{len(drawn)}{of} nodes; squares are learned from{edges}")
    figure.savefig(path, dpi=canvas.DPI)


def _color(label: int) -> str:
    return canvas.COLORS[label % len(canvas.COLORS)] if label >= 0 else "#dddddd"


def _edges(
    axes: Any, place: np.ndarray, senders: np.ndarray, receivers: np.ndarray, strength: np.ndarray
) -> None:
    from matplotlib.collections import LineCollection

    lines = np.stack([place[senders], place[receivers]], axis=1)
    colors = np.tile([0.13, 0.13, 0.13, 0.0], (len(lines), 1))
    colors[:, 3] = strength
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=0.8, zorder=1))


def _nodes(
    axes: Any, place: np.ndarray, labels: np.ndarray, told: np.ndarray, ringed: np.ndarray
) -> None:
    colors = np.array([_color(int(label)) for label in labels])
    edges = np.where(ringed, canvas.INK, canvas.WHITE)
    for mine, marker in ((~told, "o"), (told, "s")):
        axes.scatter(
            *place[mine].T,
            c=colors[mine],
            edgecolors=edges[mine],
            linewidths=np.where(ringed[mine], 1.6, 0.5),
            s=70,
            marker=marker,
            zorder=2,
        )
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    for side in axes.spines.values():
        side.set_color("#bbbbbb")


def hops(data: GraphSet, guesses: np.ndarray, path: Path) -> None:
    """Draws the test accuracy by the number of links to the nearest node that is learned from.

    Args:
      data: one graph.
      guesses: [N], classes.
      path: the file to write.
    """
    away = distances(data)[data.test]
    right = (guesses == data.labels)[data.test]
    found = np.unique(away)
    names = [f"{hop:.0f}" if np.isfinite(hop) else "none" for hop in found]
    shares = [right[away == hop].mean() for hop in found]
    figure = canvas.figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(names, shares, color=canvas.COLORS[0])
    axes.bar_label(bars, [f"n = {np.sum(away == hop):,}" for hop in found], fontsize=8)
    axes.set_ylim(0, 1.1)
    axes.set(
        title="Test accuracy by distance",
        xlabel="links to the nearest node that is learned from",
        ylabel="accuracy",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)


def some_graphs(data: GraphSet, numbers: np.ndarray, guesses: np.ndarray, path: Path) -> None:
    """Draws a few graphs, smaller than the largest that are drawn, with class and guess.

    Args:
      data: graphs.
      numbers: of those that were classified, [n].
      guesses: their classes, [n].
      path: the file to write.
    """
    sizes = np.bincount(data.graph_of)
    shown = np.flatnonzero(sizes[numbers] <= _DRAWN)[:_SHOWN]
    figure = canvas.figure(figsize=(12, 6.4), layout="constrained")
    every = figure.subplots(2, _SHOWN // 2).ravel()
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    for axes, at in zip(every, shown, strict=False):
        mine = np.flatnonzero(data.graph_of == numbers[at])
        inside = (data.receivers >= mine[0]) & (data.receivers <= mine[-1])
        senders = data.senders[inside] - mine[0]
        receivers = data.receivers[inside] - mine[0]
        place = layout(senders, receivers, len(mine))
        _edges(axes, place, senders, receivers, np.full(len(senders), 0.4))
        axes.scatter(*place.T, c=canvas.COLORS[5], edgecolors=canvas.WHITE, s=40, zorder=2)
        _bare(axes)
        label = int(data.labels[numbers[at]])
        color = canvas.RIGHT if label == guesses[at] else canvas.WRONG
        axes.set_title(
            f"{canvas.name(data.classes[label], 20)}\n"
            f"taken for {canvas.name(data.classes[int(guesses[at])], 20)}",
            fontsize=9,
            color=color,
        )
    figure.savefig(path, dpi=canvas.DPI)
