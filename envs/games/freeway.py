"""MinAtar's Freeway: lead a chicken over a road of eight lanes.

The rules, in the order of a step:

1. The chicken moves up or down, if its last move was three steps ago or earlier.
2. At the top it is worth 1, all cars get new speeds and directions, and the chicken starts again
   from the bottom.
3. Every car whose timer is up moves by one cell, around the sides of the grid; its timer is then
   its speed. A car that is in the chicken's cell before or after puts it back to the bottom.
4. Timers run. The game is over after 2,501 steps. That is a termination in MinAtar, and here: the
   observation does not tell it, and no value is expected after it.

Speeds are uniform from 1 (a move in every second step) to 5 (in every sixth), directions are fair.
Nothing becomes harder with time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.games.minatar import DOWN, NOOP, SIDE, UP, MinAtar, cell, cells, moved

LANES = 8  # rows 1 to 8
SPEEDS = 5
COLUMN = 4  # of the chicken
MOVE_PERIOD = 3  # steps between moves of the chicken, at least
STEPS = 2500


class State(NamedTuple):
    """Scalars, and numbers for each of the eight lanes."""

    row: jax.Array  # int32: of the chicken
    move_timer: jax.Array  # int32: 0 if the chicken can move
    car_column: jax.Array  # int32 [8]
    car_timer: jax.Array  # int32 [8]
    car_speed: jax.Array  # int32 [8]: steps that a car waits, 1 to 5
    is_rightward: jax.Array  # bool [8]
    time_left: jax.Array  # int32
    reward: jax.Array  # int32: of the last step
    is_over: jax.Array  # bool


def speeds(draws: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Speeds and directions of the cars.

    Args:
      draws: [8], one for both: it is a tenth's number.

    Returns:
      Speeds [8] int32 from 1 to 5, and [8] bool: which move to the right.
    """
    tenth = jnp.floor(draws * 2 * SPEEDS).astype(jnp.int32)
    return tenth % SPEEDS + 1, tenth >= SPEEDS


class Freeway(MinAtar):
    """The actions that count are none, up and down."""

    planes = ("chicken", "car", "speed1", "speed2", "speed3", "speed4", "speed5")
    minimal_actions = (NOOP, UP, DOWN)
    start_draws = LANES
    step_draws = LANES

    def start(self, draws: jax.Array) -> State:
        """All cars at the left, the chicken at the bottom."""
        car_speed, is_rightward = speeds(draws)
        return State(
            row=jnp.int32(SIDE - 1),
            move_timer=jnp.int32(MOVE_PERIOD),
            car_column=jnp.zeros(LANES, jnp.int32),
            car_timer=car_speed,
            car_speed=car_speed,
            is_rightward=is_rightward,
            time_left=jnp.int32(STEPS),
            reward=jnp.int32(0),
            is_over=jnp.bool_(False),
        )

    def play(self, state: State, action: jax.Array, draws: jax.Array) -> State:
        """Chicken, its arrival, then cars."""
        moves = ((action == UP) | (action == DOWN)) & (state.move_timer == 0)
        row = jnp.where(moves, moved(state.row, action, UP, DOWN, 0, SIDE - 1), state.row)
        move_timer = jnp.where(moves, MOVE_PERIOD, state.move_timer)

        arrives = row == 0
        row = jnp.where(arrives, SIDE - 1, row)
        new_speed, new_rightward = speeds(draws)
        car_speed = jnp.where(arrives, new_speed, state.car_speed)
        car_timer = jnp.where(arrives, new_speed, state.car_timer)
        is_rightward = jnp.where(arrives, new_rightward, state.is_rightward)

        drives = car_timer == 0
        step = jnp.where(drives, jnp.where(is_rightward, 1, -1), 0)
        car_column = (state.car_column + step) % SIDE
        crosses = (state.car_column == COLUMN) | (car_column == COLUMN)
        is_hit = jnp.any(crosses & (jnp.arange(LANES) + 1 == row))
        time_left = state.time_left - 1
        return State(
            row=jnp.where(is_hit, SIDE - 1, row),
            move_timer=jnp.maximum(move_timer - 1, 0),
            car_column=car_column,
            car_timer=jnp.where(drives, car_speed, car_timer - 1),
            car_speed=car_speed,
            is_rightward=is_rightward,
            time_left=time_left,
            reward=arrives.astype(jnp.int32),
            is_over=time_left < 0,
        )

    def picture(self, state: State) -> jax.Array:
        """[10, 10, 7] bool; the trail behind a car is in the plane of its speed."""
        lanes = jnp.arange(LANES) + 1
        behind = (state.car_column - jnp.where(state.is_rightward, 1, -1)) % SIDE
        everywhere = jnp.ones(LANES, bool)
        return jnp.stack(
            [
                cell(state.row, jnp.int32(COLUMN)),
                cells(lanes, state.car_column, everywhere),
                *(cells(lanes, behind, state.car_speed == speed + 1) for speed in range(SPEEDS)),
            ],
            axis=-1,
        )
