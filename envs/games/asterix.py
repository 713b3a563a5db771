"""MinAtar's Asterix: collect treasure and avoid enemies, both of which cross the grid in rows.

The rules, in the order of a step:

1. When its timer is up, an enemy or (with a probability of 1/3) a treasure enters at the left or
   the right (1/2) of an empty row between top and bottom, all of them equally likely.
2. The player moves by one cell, and never into the top or the bottom row.
3. A treasure that the player meets is gone and worth 1; an enemy ends the game.
4. When their timer is up, all things move by one cell in their direction, and are gone beyond the
   grid; the player meets them again.
5. Timers run. Ramping: after every 102 steps things enter one step sooner, and after every second
   of these times they also move one step sooner, until both happen in every step.

A thing that enters is met in the same step, with no time to see it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.games.minatar import (
    DOWN,
    LEFT,
    NOOP,
    RIGHT,
    SIDE,
    UP,
    MinAtar,
    cell,
    cells,
    moved,
)

ROWS = 8  # rows 1 to 8 of the grid; each holds one thing at most
FIRST_SPAWN_PERIOD = 10  # steps
FIRST_MOVE_PERIOD = 5  # steps
RAMP_PERIOD = 100  # steps; the timer counts down to -1 before it acts


class State(NamedTuple):
    """Scalars, and one number for each of the eight rows."""

    row: jax.Array  # int32: of the player
    column: jax.Array  # int32
    is_there: jax.Array  # bool [8]: a thing is in this row
    thing_column: jax.Array  # int32 [8]
    is_rightward: jax.Array  # bool [8]
    is_gold: jax.Array  # bool [8]: a treasure, no enemy
    spawn_timer: jax.Array  # int32: steps
    spawn_period: jax.Array  # int32
    move_timer: jax.Array  # int32
    move_period: jax.Array  # int32
    ramp_timer: jax.Array  # int32
    ramps: jax.Array  # int32: times that the game has become harder
    reward: jax.Array  # int32: of the last step
    is_over: jax.Array  # bool


def spawned(state: State, draws: jax.Array) -> State:
    """The state with one thing more, if a row is empty.

    Args:
      state: the state before.
      draws: [3] for direction, kind and row.
    """
    is_rightward = draws[0] < 1 / 2
    is_gold = draws[1] < 1 / 3
    empty = ~state.is_there
    chosen = jnp.floor(draws[2] * jnp.sum(empty)).astype(jnp.int32)  # which of the empty ones
    here = empty & (jnp.cumsum(empty) - 1 == chosen)  # [8], at most one
    return state._replace(
        is_there=state.is_there | here,
        thing_column=jnp.where(here, jnp.where(is_rightward, 0, SIDE - 1), state.thing_column),
        is_rightward=jnp.where(here, is_rightward, state.is_rightward),
        is_gold=jnp.where(here, is_gold, state.is_gold),
    )


def met(state: State) -> State:
    """The state after the player has met what is in its cell."""
    is_in_row = jnp.arange(ROWS) + 1 == state.row
    hits = state.is_there & is_in_row & (state.thing_column == state.column)
    takes = hits & state.is_gold
    return state._replace(
        is_there=state.is_there & ~takes,
        reward=state.reward + jnp.sum(takes),
        is_over=state.is_over | jnp.any(hits & ~state.is_gold),
    )


def ramped(state: State) -> State:
    """The state after the timer of difficulty has run for a step."""
    can_ramp = (state.spawn_period > 1) | (state.move_period > 1)
    is_due = can_ramp & (state.ramp_timer < 0)
    moves_sooner = is_due & (state.move_period > 1) & (state.ramps % 2 == 1)
    spawns_sooner = is_due & (state.spawn_period > 1)
    return state._replace(
        move_period=state.move_period - moves_sooner,
        spawn_period=state.spawn_period - spawns_sooner,
        ramps=state.ramps + is_due,
        ramp_timer=jnp.where(is_due, RAMP_PERIOD, state.ramp_timer - can_ramp),
    )


class Asterix(MinAtar):
    """All actions but fire count."""

    planes = ("player", "enemy", "trail", "gold")
    minimal_actions = (NOOP, LEFT, UP, RIGHT, DOWN)
    step_draws = 3

    def start(self, draws: jax.Array) -> State:
        """The player in the middle, and nothing else."""
        nothing = jnp.zeros(ROWS, bool)
        return State(
            row=jnp.int32(5),
            column=jnp.int32(5),
            is_there=nothing,
            thing_column=jnp.zeros(ROWS, jnp.int32),
            is_rightward=nothing,
            is_gold=nothing,
            spawn_timer=jnp.int32(FIRST_SPAWN_PERIOD),
            spawn_period=jnp.int32(FIRST_SPAWN_PERIOD),
            move_timer=jnp.int32(FIRST_MOVE_PERIOD),
            move_period=jnp.int32(FIRST_MOVE_PERIOD),
            ramp_timer=jnp.int32(RAMP_PERIOD),
            ramps=jnp.int32(0),
            reward=jnp.int32(0),
            is_over=jnp.bool_(False),
        )

    def play(self, state: State, action: jax.Array, draws: jax.Array) -> State:
        """What enters, the player, what it meets, what moves, and what it meets then."""
        state = state._replace(reward=jnp.int32(0), is_over=jnp.bool_(False))
        spawns = state.spawn_timer == 0
        state = _chosen(spawns, spawned(state, draws), state)
        state = state._replace(
            row=moved(state.row, action, UP, DOWN, 1, SIDE - 2),
            column=moved(state.column, action, LEFT, RIGHT, 0, SIDE - 1),
        )
        state = met(state)

        moves = state.move_timer == 0
        thing_column = state.thing_column + jnp.where(state.is_rightward, 1, -1)
        is_inside = (thing_column >= 0) & (thing_column < SIDE)
        after_move = state._replace(thing_column=thing_column, is_there=state.is_there & is_inside)
        # What has not moved cannot be met anew: treasure is gone, and an enemy ends a game once.
        state = met(_chosen(moves, after_move, state))

        state = state._replace(
            spawn_timer=jnp.where(spawns, state.spawn_period, state.spawn_timer) - 1,
            move_timer=jnp.where(moves, state.move_period, state.move_timer) - 1,
        )
        return ramped(state) if self.is_ramping else state

    def picture(self, state: State) -> jax.Array:
        """[10, 10, 4] bool."""
        rows = jnp.arange(ROWS) + 1
        behind = state.thing_column - jnp.where(state.is_rightward, 1, -1)
        return jnp.stack(
            [
                cell(state.row, state.column),
                cells(rows, state.thing_column, state.is_there & ~state.is_gold),
                cells(rows, behind, state.is_there),
                cells(rows, state.thing_column, state.is_there & state.is_gold),
            ],
            axis=-1,
        )


def _chosen(is_first: jax.Array, first: State, second: State) -> State:
    return jax.tree.map(lambda a, b: jnp.where(is_first, a, b), first, second)
