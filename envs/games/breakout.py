"""MinAtar's Breakout: bounce a ball off the paddle into a wall of bricks.

The rules, in the order of a step:

1. The paddle in the bottom row moves left or right.
2. The ball moves by one cell along a diagonal. At a side it stays in its column and turns around.
3. At the top it stays in the top row and turns down; or
   where there is a brick, that breaks, is worth 1, and the ball stays in its row and turns around.
   Bricks are passed through in the step after one has broken, and until the ball is clear; or
   in the bottom row, it bounces off the paddle if the paddle is in the column that the ball comes
   from (it turns up), or in the one it goes to (it turns back the way it came). Else the game is
   over. The wall is rebuilt first if no brick is left.

The ball starts in the wall's lowest row, where bricks hide it in pictures, at either side by a fair
draw, and moves down. Nothing becomes harder with time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.games.minatar import LEFT, NOOP, RIGHT, SIDE, MinAtar, cell, moved

WALL = slice(1, 4)  # rows


class State(NamedTuple):
    """Scalars but for the bricks."""

    paddle: jax.Array  # int32: column
    row: jax.Array  # int32: of the ball
    column: jax.Array  # int32
    down: jax.Array  # int32: 1 if the ball moves down, -1 if up
    right: jax.Array  # int32: 1 if the ball moves to the right, -1 if to the left
    last_row: jax.Array  # int32: where the ball was before, which shows its direction
    last_column: jax.Array  # int32
    bricks: jax.Array  # bool [10, 10]
    is_striking: jax.Array  # bool: a brick has broken, and the ball is not clear of bricks yet
    reward: jax.Array  # int32: of the last step
    is_over: jax.Array  # bool


def wall() -> jax.Array:
    """All the bricks, [10, 10] bool."""
    return jnp.zeros((SIDE, SIDE), bool).at[WALL].set(True)


class Breakout(MinAtar):
    """The actions that count are none, left and right."""

    planes = ("paddle", "ball", "trail", "brick")
    minimal_actions = (NOOP, LEFT, RIGHT)
    start_draws = 1

    def start(self, draws: jax.Array) -> State:
        """The ball at the left for a draw below 1/2, else at the right."""
        is_left = draws[0] < 0.5
        row = jnp.int32(3)
        column = jnp.int32(jnp.where(is_left, 0, SIDE - 1))
        return State(
            paddle=jnp.int32(4),
            row=row,
            column=column,
            down=jnp.int32(1),
            right=jnp.int32(jnp.where(is_left, 1, -1)),
            last_row=row,
            last_column=column,
            bricks=wall(),
            is_striking=jnp.bool_(False),
            reward=jnp.int32(0),
            is_over=jnp.bool_(False),
        )

    def play(self, state: State, action: jax.Array, draws: jax.Array) -> State:
        """Paddle, ball, then what the ball meets."""
        paddle = moved(state.paddle, action, LEFT, RIGHT, 0, SIDE - 1)
        row = state.row + state.down
        column = state.column + state.right
        is_at_side = (column < 0) | (column >= SIDE)
        column = jnp.clip(column, 0, SIDE - 1)
        right = jnp.where(is_at_side, -state.right, state.right)

        is_at_top = row < 0
        target = cell(row, column)
        meets_brick = jnp.any(state.bricks & target)  # never at the top: no cell is there
        breaks = meets_brick & ~state.is_striking
        bricks = state.bricks & ~(target & breaks)

        is_at_bottom = ~meets_brick & (row == SIDE - 1)
        bricks = jnp.where(is_at_bottom & ~jnp.any(bricks), wall(), bricks)
        is_below_ball = is_at_bottom & (paddle == state.column)
        is_before_ball = is_at_bottom & ~is_below_ball & (paddle == column)
        bounces = is_below_ball | is_before_ball

        turns = is_at_top | breaks | bounces
        return State(
            paddle=paddle,
            row=jnp.where(is_at_top, 0, jnp.where(breaks | bounces, state.row, row)),
            column=column,
            down=jnp.where(turns, -state.down, state.down),
            right=jnp.where(is_before_ball, -right, right),
            last_row=state.row,
            last_column=state.column,
            bricks=bricks,
            is_striking=meets_brick,
            reward=breaks.astype(jnp.int32),
            is_over=is_at_bottom & ~bounces,
        )

    def picture(self, state: State) -> jax.Array:
        """[10, 10, 4] bool."""
        return jnp.stack(
            [
                cell(SIDE - 1, state.paddle),
                cell(state.row, state.column),
                cell(state.last_row, state.last_column),
                state.bricks,
            ],
            axis=-1,
        )
