"""MinAtar's SpaceInvaders: shoot the aliens before they land.

The rules, in the order of a step:

1. The cannon in the bottom row fires, if its last shot was five steps ago or earlier, or moves.
2. Its bullets move up by one cell, those of the aliens down. One that hits the cannon ends the
   game.
3. So does an alien in the cannon's cell. When their timer is up, all aliens move by one cell to a
   side; if one stands at that side, all move down instead and turn around, which ends the game if
   one stood in the bottom row. An alien that moves into the cannon's cell ends the game.
4. Every ten steps the lowest alien of the column nearest to the cannon fires, of two as near the
   one at the left.
5. Aliens and the cannon's bullets in the same cell are gone; each alien is worth 1.
6. Timers run. If no alien is left, 24 come anew, which (ramping) move one step sooner than the wave
   before, down to six steps.

The fewer aliens there are, the sooner they move: their timer is at most their number. Nothing is
drawn at random, but for sticky actions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.games.minatar import FIRE, LEFT, NOOP, RIGHT, SIDE, MinAtar, cell, moved

SHOT_PERIOD = 5  # steps between shots of the cannon, at least
FIRST_MOVE_PERIOD = 12  # steps
LAST_MOVE_PERIOD = 6  # steps
ALIEN_SHOT_PERIOD = 10  # steps
BOTTOM = SIDE - 1


class State(NamedTuple):
    """Scalars but for the three grids."""

    cannon: jax.Array  # int32: column
    bullets: jax.Array  # bool [10, 10]: of the cannon
    alien_bullets: jax.Array  # bool [10, 10]
    aliens: jax.Array  # bool [10, 10]
    direction: jax.Array  # int32: of the aliens, 1 to the right, -1 to the left
    move_period: jax.Array  # int32: steps between moves of many aliens
    move_timer: jax.Array  # int32
    alien_shot_timer: jax.Array  # int32
    shot_timer: jax.Array  # int32: 0 if the cannon can fire
    ramps: jax.Array  # int32: times that the game has become harder
    reward: jax.Array  # int32: of the last step
    is_over: jax.Array  # bool


def wave() -> jax.Array:
    """All the aliens, [10, 10] bool."""
    return jnp.zeros((SIDE, SIDE), bool).at[:4, 2:8].set(True)


def shooter(aliens: jax.Array, cannon: jax.Array) -> jax.Array:
    """[10, 10] bool with the alien that fires: the lowest one of the nearest column."""
    columns = jnp.arange(SIDE)
    distance = jnp.where(jnp.any(aliens, axis=0), jnp.abs(columns - cannon), SIDE)
    column = jnp.argmin(distance)  # of equals the first
    in_column = aliens & (columns == column)[None]
    row = BOTTOM - jnp.argmax(jnp.any(in_column, axis=1)[::-1])
    return aliens & cell(row, column)


class SpaceInvaders(MinAtar):
    """The actions that count are none, left, right and fire."""

    planes = (
        "cannon",
        "alien",
        "alien_left",
        "alien_right",
        "friendly_bullet",
        "enemy_bullet",
    )
    minimal_actions = (NOOP, LEFT, RIGHT, FIRE)

    def start(self, draws: jax.Array) -> State:
        """A whole wave that moves to the left."""
        nothing = jnp.zeros((SIDE, SIDE), bool)
        return State(
            cannon=jnp.int32(5),
            bullets=nothing,
            alien_bullets=nothing,
            aliens=wave(),
            direction=jnp.int32(-1),
            move_period=jnp.int32(FIRST_MOVE_PERIOD),
            move_timer=jnp.int32(FIRST_MOVE_PERIOD),
            alien_shot_timer=jnp.int32(ALIEN_SHOT_PERIOD),
            shot_timer=jnp.int32(0),
            ramps=jnp.int32(0),
            reward=jnp.int32(0),
            is_over=jnp.bool_(False),
        )

    def play(self, state: State, action: jax.Array, draws: jax.Array) -> State:
        """Cannon, bullets, aliens, then hits."""
        cannon = moved(state.cannon, action, LEFT, RIGHT, 0, BOTTOM)
        fires = (action == FIRE) & (state.shot_timer == 0)
        shot_timer = jnp.where(fires, SHOT_PERIOD, state.shot_timer)
        bullets = state.bullets | (cell(BOTTOM, cannon) & fires)
        bullets = jnp.roll(bullets, -1, axis=0).at[BOTTOM].set(False)
        alien_bullets = jnp.roll(state.alien_bullets, 1, axis=0).at[0].set(False)
        is_over = alien_bullets[BOTTOM, cannon] | state.aliens[BOTTOM, cannon]

        moves = state.move_timer == 0
        move_timer = jnp.where(
            moves, jnp.minimum(jnp.sum(state.aliens), state.move_period), state.move_timer
        )
        is_at_left = jnp.any(state.aliens[:, 0]) & (state.direction < 0)
        is_at_right = jnp.any(state.aliens[:, BOTTOM]) & (state.direction > 0)
        descends = moves & (is_at_left | is_at_right)
        advances = moves & ~descends
        direction = jnp.where(descends, -state.direction, state.direction)
        is_over |= descends & jnp.any(state.aliens[BOTTOM])
        # Nobody stands at the side that they move to, so that nobody comes around; below the bottom
        # they do, at the end of a game.
        to_right = jnp.roll(state.aliens, 1, axis=1)
        to_left = jnp.roll(state.aliens, -1, axis=1)
        aliens = jnp.where(advances, jnp.where(direction > 0, to_right, to_left), state.aliens)
        aliens = jnp.where(descends, jnp.roll(state.aliens, 1, axis=0), aliens)
        is_over |= moves & aliens[BOTTOM, cannon]

        alien_fires = state.alien_shot_timer == 0
        alien_bullets |= shooter(aliens, cannon) & alien_fires
        alien_shot_timer = jnp.where(alien_fires, ALIEN_SHOT_PERIOD, state.alien_shot_timer)

        hits = aliens & bullets
        aliens &= ~hits
        is_cleared = ~jnp.any(aliens)
        becomes_harder = is_cleared & (state.move_period > LAST_MOVE_PERIOD) & self.is_ramping
        return State(
            cannon=cannon,
            bullets=bullets & ~hits,
            alien_bullets=alien_bullets,
            aliens=jnp.where(is_cleared, wave(), aliens),
            direction=direction,
            move_period=state.move_period - becomes_harder,
            move_timer=move_timer - 1,
            alien_shot_timer=alien_shot_timer - 1,
            shot_timer=jnp.maximum(shot_timer - 1, 0),
            ramps=state.ramps + becomes_harder,
            reward=jnp.sum(hits),
            is_over=is_over,
        )

    def picture(self, state: State) -> jax.Array:
        """[10, 10, 6] bool."""
        return jnp.stack(
            [
                cell(BOTTOM, state.cannon),
                state.aliens,
                state.aliens & (state.direction < 0),
                state.aliens & (state.direction > 0),
                state.bullets,
                state.alien_bullets,
            ],
            axis=-1,
        )
