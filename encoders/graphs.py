"""Encoders of the nodes of graphs: any network on graphs."""

from dataclasses import dataclass

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.data import graphs as data
from missing_bits.data.graphs import GraphSet
from missing_bits.encoders.variables import Variables
from missing_bits.errors import require
from missing_bits.nets.graphs import Graph, Network, Noise, Settings, single_node

_MOST = 10_000_000  # features of a node
_SLOPE = 0.25  # of the PReLU, at the start (He et al. 2015)


@dataclass(frozen=True)
class GraphEncoder:
    """An encoder of nodes: a network whose last layer is as wide as the others, and a PReLU.

    These fields are all that its file must say besides its variables.
    """

    passing: Settings
    """The network."""
    node_features: int
    """F, features of a node."""
    edge_features: int = 0
    """K, features of an edge; 0 for none."""

    def __post_init__(self) -> None:
        self.passing.check("")
        require(
            1 <= self.node_features <= _MOST and 0 <= self.edge_features <= _MOST,
            f"An encoder of graphs has {self.node_features} features of nodes and "
            f"{self.edge_features} of edges; it must have 1 or more, and 0 or more.",
        )

    @property
    def num_features(self) -> int:
        """D, the width of a feature."""
        return self.passing.width

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables."""
        node = single_node(self.node_features, self.edge_features)
        found = self._network.init(key, node)
        return Variables({**found.params, "prelu": {"slope": jnp.asarray(_SLOPE)}}, found.state)

    def apply(
        self,
        variables: Variables,
        graph: Graph,
        is_training: bool = False,
        noise: Noise | None = None,
    ) -> tuple[jax.Array, hk.State]:
        """Features of nodes.

        Args:
          variables: of this encoder.
          graph: as `prepare` makes it.
          is_training: whether batch normalization looks at the batch.
          noise: for dropout; None for none.

        Returns:
          Features [N, D], and the new state.
        """
        levels, state = self._network.apply(variables, graph, noise, is_training)
        slope = variables.params["prelu"]["slope"]
        x = levels.nodes[-1]
        return jnp.where(x > 0, x, slope * x), state

    def prepare(self, inputs: GraphSet) -> Graph:
        """Graphs as `apply` takes them.

        Args:
          inputs: a set of graphs.

        Raises:
          UserError: they are no graphs, or their nodes or edges hold something else.
        """
        require(
            isinstance(inputs, GraphSet),
            f"An encoder of graphs takes a set of graphs (data.graphs.Data.load), not "
            f"{type(inputs).__name__}.",
        )
        count = inputs.nodes.shape[1]
        require(
            count == self.node_features,
            f"Nodes have {count:,} features; this encoder takes {self.node_features:,}.",
        )
        edges = 0 if inputs.edges is None else inputs.edges.shape[1]
        require(
            edges == self.edge_features,
            f"Edges have {edges} features; this encoder takes {self.edge_features}.",
        )
        return data.whole(inputs)

    @property
    def _network(self) -> Network:
        return self.passing.make(self.passing.width)
