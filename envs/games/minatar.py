"""What the games of MinAtar (Young and Tian 2019, arXiv:1903.03176) share.

Each is a small version of a game of Atari 2600 on a grid of 10 x 10 cells, observed as one plane
for each kind of thing. The rules are those of MinAtar 1.0.15, and one step equals its, given the
same state, action and random draws; the games are written anew from the rules.

Sticky actions: with a probability of 0.1, the last action is repeated instead of the one chosen. A
first action, which has no predecessor, then does nothing; MinAtar's repeats the last one of the
episode before.

Cells are (row, column); row 0 is at the top. A game is a pure function of state, action and numbers
drawn uniformly from [0, 1), all at once for a step: one call of the random number generator costs
less than several, and a test can put those of another implementation in their place.
"""

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.experimental.functional import FuncEnv

SIDE = 10  # cells
ACTIONS = ("noop", "left", "up", "right", "down", "fire")
NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(len(ACTIONS))
PIXELS = 16  # the side of a cell in pictures


class Played(NamedTuple):
    """A game and what stickiness needs."""

    game: Any  # the game's state; it has `reward` and `is_over`
    last_action: jax.Array  # int32: of the six


class MinAtar(FuncEnv):
    """A game behind Gymnasium's functional interface; a subclass says which.

    Args:
      sticky_action_prob: probability that the last action is repeated.
      difficulty_ramping: whether the game becomes harder with time, if it is one that does.
      use_minimal_action_set: whether only those of the six actions count that do something.

    Raises:
      ValueError: they are no probability and no truth values: text, say, is always true. Python
        counts true as 1, which is no probability here.
    """

    planes: ClassVar[tuple[str, ...]]
    """The kinds of things observed, one a plane."""
    minimal_actions: ClassVar[tuple[int, ...]]
    """Those of the six actions that do something."""
    start_draws: ClassVar[int] = 0
    """Numbers drawn for a first state."""
    step_draws: ClassVar[int] = 0
    """Numbers drawn for a step."""

    def __init__(
        self,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        use_minimal_action_set: bool = True,
    ) -> None:
        super().__init__()
        is_number = isinstance(sticky_action_prob, int | float)
        if isinstance(sticky_action_prob, bool) or not (is_number and 0 <= sticky_action_prob <= 1):
            raise ValueError(
                f"sticky_action_prob is {sticky_action_prob!r}; it must be a number from 0 to 1"
            )
        for name, given in (
            ("difficulty_ramping", difficulty_ramping),
            ("use_minimal_action_set", use_minimal_action_set),
        ):
            if not isinstance(given, bool):
                raise ValueError(f"{name} is {given!r}; it must be true or false")
        actions = self.minimal_actions if use_minimal_action_set else range(len(ACTIONS))
        self._actions = np.array(actions, np.int32)
        self._stickiness = sticky_action_prob
        self.is_ramping = difficulty_ramping
        self.action_space = gym.spaces.Discrete(len(self._actions))
        shape = (SIDE, SIDE, len(self.planes))
        self.observation_space = gym.spaces.Box(0, 1, shape, np.uint8)

    @property
    def protocol(self) -> dict[str, Any]:
        """What must be known of a game before its returns are compared (envs/protocol.py)."""
        count = len(self._actions)
        is_full = count == len(ACTIONS)
        return {
            "termination": "game over",
            "action_set": f"{'full' if is_full else 'minimal'}, {count} actions",
            "stickiness": self._stickiness,
            "difficulty_ramping": self.is_ramping,
        }

    def start(self, draws: jax.Array) -> Any:
        """The game's first state.

        Args:
          draws: [start_draws] float32 in [0, 1).
        """
        raise NotImplementedError

    def play(self, state: Any, action: jax.Array, draws: jax.Array) -> Any:
        """The game's state one step later; it is not over yet.

        Args:
          state: the game's state.
          action: int32 scalar, one of the six.
          draws: [step_draws] float32 in [0, 1).
        """
        raise NotImplementedError

    def picture(self, state: Any) -> jax.Array:
        """[10, 10, planes] bool: where there is what."""
        raise NotImplementedError

    def initial(self, rng: jax.Array, params: Any = None) -> Played:
        """The game's first state, after no action."""
        return Played(self.start(jax.random.uniform(rng, (self.start_draws,))), jnp.int32(NOOP))

    def transition(
        self, state: Played, action: jax.Array, rng: jax.Array, params: Any = None
    ) -> Played:
        """The state after a chosen action, or the last one again."""
        return self.advance(state, action, jax.random.uniform(rng, (1 + self.step_draws,)))

    def advance(self, state: Played, action: jax.Array, draws: jax.Array) -> Played:
        """A step with draws [1 + step_draws], of which the first is for stickiness."""
        is_stuck = draws[0] < self._stickiness
        made = jnp.where(is_stuck, state.last_action, jnp.asarray(self._actions)[action])
        return Played(self.play(state.game, made, draws[1:]), made)

    def observation(self, state: Played, rng: jax.Array, params: Any = None) -> jax.Array:
        """[10, 10, planes] uint8, 0 or 1."""
        return self.picture(state.game).astype(jnp.uint8)

    def reward(
        self,
        state: Played,
        action: jax.Array,
        next_state: Played,
        rng: jax.Array,
        params: Any = None,
    ) -> jax.Array:
        """Points of the step, float32."""
        return next_state.game.reward.astype(jnp.float32)

    def terminal(self, state: Played, rng: jax.Array, params: Any = None) -> jax.Array:
        """Whether the game is over."""
        return state.game.is_over

    def render_init(self, params: Any = None) -> np.ndarray:
        """[1 + planes, 3] uint8: black, then a color for each plane."""
        import matplotlib

        colors = matplotlib.colormaps["turbo"](np.linspace(0.1, 1, len(self.planes)))[:, :3]
        return np.concatenate([np.zeros((1, 3)), colors * 255]).astype(np.uint8)

    def render_image(
        self, state: Played, render_state: np.ndarray, params: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The colors, and an image [160, 160, 3]: in each cell the last plane's thing is seen."""
        shown = np.asarray(self.picture(state.game)) * np.arange(1, len(self.planes) + 1)
        cells = render_state[shown.max(axis=2)]
        return render_state, cells.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)

    def render_close(self, render_state: np.ndarray, params: Any = None) -> None:
        """Nothing is open."""


def moved(at: jax.Array, action: jax.Array, back: int, on: int, low: int, high: int) -> jax.Array:
    """A coordinate after an action that may move it by one cell, between two bounds.

    Args:
      at: int32, row or column.
      action: int32 scalar, one of the six.
      back: the action that makes it smaller.
      on: the action that makes it larger.
      low: the smallest value.
      high: the largest value.
    """
    step = (action == on).astype(jnp.int32) - (action == back)
    return jnp.clip(at + step, low, high)


def cells(rows: jax.Array, columns: jax.Array, is_there: jax.Array) -> jax.Array:
    """Mark cells on the grid; those beyond it are not seen.

    Args:
      rows: [K] int32.
      columns: [K] int32.
      is_there: [K] bool: which of them to mark.

    Returns:
      [10, 10] bool.
    """
    is_seen = is_there & (columns >= 0) & (columns < SIDE)
    # A bit for each column: reductions over rows of bits cost a tenth of those over cells.
    bits = jnp.where(is_seen, 1 << jnp.clip(columns, 0, SIDE - 1), 0)
    line = jnp.arange(SIDE)
    in_rows = jnp.where(line[:, None] == rows[None], bits[None], 0)  # [10, K]
    rows_of_bits = jnp.bitwise_or.reduce(in_rows, axis=1)
    return (rows_of_bits[:, None] >> line[None]) & 1 == 1


def cell(row: jax.Array, column: jax.Array) -> jax.Array:
    """[10, 10] bool with one cell marked, if it is on the grid."""
    line = jnp.arange(SIDE)
    return (line == row)[:, None] & (line == column)[None]
