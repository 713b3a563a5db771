"""MinAtar's Seaquest: a submarine rescues divers, shoots enemies and must come up for air.

The rules, in the order of a step:

1. When its timer is up, an enemy comes from the left or the right (1/2) in one of rows 1 to 8 (all
   equally likely): a submarine with a probability of 1/3, else a fish. It stays away if enemies
   move in that row the other way. Every 30 steps a diver comes, from either side in any such row.
2. The submarine fires, if its last shot was five steps ago or earlier, or moves; left and right
   also turn it. It cannot enter the bottom row, which shows oxygen and divers.
3. Its bullets move by one cell. One that meets an enemy is gone with it, which is worth 1. Of fish
   in one cell the oldest is hit; a submarine only where there is no fish.
4. A diver that the submarine meets, before or after he moves (in every sixth step), is taken on
   board, if there are fewer than six.
5. An enemy that meets the submarine, before or after it moves, ends the game. One that moves into a
   bullet is gone with it, which is worth 1: of several a submarine before fish, the youngest first.
   Every eleven steps a submarine fires, even where it is hit or leaves the grid in this step.
6. Bullets of enemies move by one cell; one that meets the submarine, before or after, ends the
   game.
7. Timers run. Without oxygen the game is over. Below the surface oxygen goes down by one of 200.
8. Coming up with no diver on board ends the game. With six, the oxygen left is worth up to 10
   points, one for 20 steps. Then oxygen is full again, and all six divers leave the submarine, or
   one of fewer. Ramping: each time enemies come one step sooner, and every second time they also
   move one step sooner, until they come in every step and move in every third.

The last rule has a slip in MinAtar 1.0.15 that is kept here: after six divers have left, one more
is taken off, so that -1 are on board, and the next surfacing does not end the game.

Seaquest changed in MinAtar 1.0.11: results of earlier versions do not compare.

Places are fixed, as shapes are. While an enemy stays, fewer than 32 others come (it stays 60 steps
at first, when they come every 20, and 30 steps when one comes in each): a ring of places holds them
in the order of their coming. A submarine's bullet has left the grid when the submarine fires again,
or when another one, which has taken its place, fires first: one bullet for each place suffices. At
most two of the player's bullets and two divers are there at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.envs.games.minatar import (
    DOWN,
    FIRE,
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

ENEMIES = 32
DIVERS = 2
BULLETS = 2  # of the player
DEEPEST = 8  # row
OXYGEN = 200  # steps
MOST_DIVERS = 6  # on board
FIRST_SPAWN_PERIOD = 20  # steps
DIVER_SPAWN_PERIOD = 30
FIRST_MOVE_PERIOD = 5  # steps that an enemy waits
LAST_MOVE_PERIOD = 2
DIVER_MOVE_PERIOD = 5
SHOT_PERIOD = 5
ENEMY_SHOT_PERIOD = 10


class Things(NamedTuple):
    """K things that move along their rows; arrays [K]."""

    is_there: jax.Array  # bool
    row: jax.Array  # int32
    column: jax.Array  # int32
    is_rightward: jax.Array  # bool

    def at(self, row: jax.Array, column: jax.Array) -> jax.Array:
        """[K] bool: which are in a cell."""
        return self.is_there & (self.row == row) & (self.column == column)

    def ahead(self, moves: jax.Array) -> jax.Array:
        """[K] int32: columns after those that move have moved by one cell."""
        return self.column + jnp.where(moves, jnp.where(self.is_rightward, 1, -1), 0)

    def behind(self) -> jax.Array:
        """[K] int32: columns behind them."""
        return self.column - jnp.where(self.is_rightward, 1, -1)

    def seen(self) -> jax.Array:
        """[10, 10] bool: where they are."""
        return cells(self.row, self.column, self.is_there)


class State(NamedTuple):
    """Scalars, and the things in the water."""

    row: jax.Array  # int32: of the player's submarine
    column: jax.Array  # int32
    is_rightward: jax.Array  # bool
    bullets: Things  # [2]
    enemies: Things  # [32]
    is_submarine: jax.Array  # bool [32]: an enemy submarine, no fish
    move_timers: jax.Array  # int32 [32]
    shot_timers: jax.Array  # int32 [32]: of enemy submarines
    next_enemy: jax.Array  # int32: the place of the next one, which is that of the oldest
    enemy_bullets: Things  # [32]
    divers: Things  # [2]
    diver_timers: jax.Array  # int32 [2]
    next_diver: jax.Array  # int32: the place of the next one
    on_board: jax.Array  # int32: divers, -1 after six have left
    oxygen: jax.Array  # int32: steps
    is_surfaced: jax.Array  # bool
    shot_timer: jax.Array  # int32: 0 if the player can fire
    spawn_timer: jax.Array  # int32: steps
    spawn_period: jax.Array  # int32
    move_period: jax.Array  # int32: of enemies
    diver_spawn_timer: jax.Array  # int32
    ramps: jax.Array  # int32: times that the game has become harder
    reward: jax.Array  # int32: of the last step
    is_over: jax.Array  # bool


def nothing(count: int) -> Things:
    """`count` places for things, all empty."""
    zeros = jnp.zeros(count, jnp.int32)
    return Things(zeros > 0, zeros, zeros, zeros > 0)


def put(
    things: Things, here: jax.Array, row: jax.Array, column: jax.Array, is_rightward: jax.Array
) -> Things:
    """Things with new ones in the places `here`, bool [K]; the rest broadcasts to [K]."""
    return Things(
        things.is_there | here,
        jnp.where(here, row, things.row),
        jnp.where(here, column, things.column),
        jnp.where(here, is_rightward, things.is_rightward),
    )


def entrance(side: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Row, column and direction of what comes, from two draws."""
    is_rightward = side < 1 / 2
    return (
        1 + jnp.floor(row * DEEPEST).astype(jnp.int32),
        jnp.where(is_rightward, 0, SIDE - 1),
        is_rightward,
    )


def with_new_enemy(state: State, draws: jax.Array) -> State:
    """The state after an enemy's timer: draws [3] are its direction, kind and row."""
    is_due = state.spawn_timer == 0
    enemies = state.enemies
    row, column, is_rightward = entrance(draws[0], draws[2])
    against = enemies.is_there & (enemies.row == row) & (enemies.is_rightward != is_rightward)
    comes = is_due & ~jnp.any(against)
    here = comes & (jnp.arange(ENEMIES) == state.next_enemy)
    return state._replace(
        enemies=put(enemies, here, row, column, is_rightward),
        is_submarine=jnp.where(here, draws[1] < 1 / 3, state.is_submarine),
        move_timers=jnp.where(here, state.move_period, state.move_timers),
        shot_timers=jnp.where(here, ENEMY_SHOT_PERIOD, state.shot_timers),
        next_enemy=(state.next_enemy + comes) % ENEMIES,
        spawn_timer=jnp.where(is_due, state.spawn_period, state.spawn_timer),
    )


def with_new_diver(state: State, draws: jax.Array) -> State:
    """The state after the divers' timer: draws [2] are direction and row."""
    is_due = state.diver_spawn_timer == 0
    here = is_due & (jnp.arange(DIVERS) == state.next_diver)
    return state._replace(
        divers=put(state.divers, here, *entrance(draws[0], draws[1])),
        diver_timers=jnp.where(here, DIVER_MOVE_PERIOD, state.diver_timers),
        next_diver=(state.next_diver + is_due) % DIVERS,
        diver_spawn_timer=jnp.where(is_due, DIVER_SPAWN_PERIOD, state.diver_spawn_timer),
    )


def steered(state: State, action: jax.Array) -> State:
    """The state after the player's action."""
    fires = (action == FIRE) & (state.shot_timer == 0)
    is_free = ~state.bullets.is_there
    here = fires & is_free & (jnp.cumsum(is_free) == 1)  # the first free place
    return state._replace(
        bullets=put(state.bullets, here, state.row, state.column, state.is_rightward),
        shot_timer=jnp.where(fires, SHOT_PERIOD, state.shot_timer),
        row=moved(state.row, action, UP, DOWN, 0, DEEPEST),
        column=moved(state.column, action, LEFT, RIGHT, 0, SIDE - 1),
        is_rightward=(state.is_rightward & (action != LEFT)) | (action == RIGHT),
    )


def moved_on(things: Things, moves: jax.Array) -> Things:
    """Things after those that move have moved; beyond the grid they are gone."""
    column = things.ahead(moves)
    is_inside = (column >= 0) & (column < SIDE)
    return things._replace(column=column, is_there=things.is_there & is_inside)


def meetings(bullets: Things, enemies: Things) -> jax.Array:
    """[2, 32] bool: which bullet is in a cell with which enemy."""
    return jax.vmap(lambda is_there, row, column: is_there & enemies.at(row, column))(
        bullets.is_there, bullets.row, bullets.column
    )


def rank(state: State) -> jax.Array:
    """[32] int32: fish before submarines, each from the oldest on."""
    age_order = (jnp.arange(ENEMIES) - state.next_enemy) % ENEMIES
    return age_order + ENEMIES * state.is_submarine


def without_hit(state: State, hits: jax.Array) -> State:
    """The state without the pairs of bullet and enemy in `hits` [2, 32]; each is worth 1."""
    is_spent = jnp.any(hits, axis=1)
    is_hit = jnp.any(hits, axis=0)
    return state._replace(
        bullets=state.bullets._replace(is_there=state.bullets.is_there & ~is_spent),
        enemies=state.enemies._replace(is_there=state.enemies.is_there & ~is_hit),
        reward=state.reward + jnp.sum(is_spent),
    )


def with_bullets_moved(state: State) -> State:
    """The state after the player's bullets have moved and hit."""
    state = state._replace(bullets=moved_on(state.bullets, jnp.bool_(True)))
    meets = meetings(state.bullets, state.enemies)
    ranks = jnp.where(meets, rank(state)[None], 2 * ENEMIES)
    return without_hit(state, meets & (ranks == jnp.min(ranks, axis=1, keepdims=True)))


def with_divers_moved(state: State) -> State:
    """The state after divers have been met, have moved and have been met."""
    before = state.divers
    is_met = before.at(state.row, state.column)
    moves = before.is_there & (state.diver_timers == 0)
    after = moved_on(before, moves)
    is_met |= moves & after.at(state.row, state.column)
    # Of two the younger one is first to find room.
    is_younger = jnp.arange(DIVERS) != state.next_diver
    room = MOST_DIVERS - state.on_board
    taken = is_met & jnp.where(jnp.all(is_met) & ~is_younger, room > 1, room > 0)
    return state._replace(
        # A diver who has been met and finds no room goes on as if nothing had been.
        divers=after._replace(is_there=after.is_there & ~taken),
        diver_timers=jnp.where(moves, DIVER_MOVE_PERIOD, state.diver_timers - 1),
        on_board=state.on_board + jnp.sum(taken),
    )


def with_enemies_moved(state: State) -> State:
    """The state after enemies have moved and fired, and their bullets have moved."""
    before = state.enemies
    moves = before.is_there & (state.move_timers == 0)
    after = moved_on(before, moves)
    is_over = jnp.any(before.at(state.row, state.column) | after.at(state.row, state.column))

    fires = before.is_there & state.is_submarine & (state.shot_timers == 0)
    bullets = put(state.enemy_bullets, fires, before.row, before.ahead(moves), before.is_rightward)
    is_over |= jnp.any(bullets.at(state.row, state.column))
    bullets = moved_on(bullets, jnp.bool_(True))
    is_over |= jnp.any(bullets.at(state.row, state.column))

    state = state._replace(
        enemies=after,
        move_timers=jnp.where(moves, state.move_period, state.move_timers - 1),
        shot_timers=jnp.where(fires, ENEMY_SHOT_PERIOD, state.shot_timers - 1),
        enemy_bullets=bullets,
        is_over=is_over,
    )
    meets = meetings(state.bullets, after) & moves[None]
    ranks = jnp.where(meets, rank(state)[None], -1)
    return without_hit(state, meets & (ranks == jnp.max(ranks, axis=1, keepdims=True)))


def breathed(state: State, is_ramping: bool) -> State:
    """The state after oxygen has gone down, or the submarine has come up."""
    is_below = state.row > 0
    comes_up = ~is_below & ~state.is_surfaced
    surfaces = comes_up & (state.on_board != 0)
    is_full = state.on_board == MOST_DIVERS
    points = jnp.where(surfaces & is_full, state.oxygen * 10 // OXYGEN, 0)
    can_ramp = (state.spawn_period > 1) | (state.move_period > LAST_MOVE_PERIOD)
    ramps = surfaces & can_ramp & is_ramping
    moves_sooner = ramps & (state.move_period > LAST_MOVE_PERIOD) & (state.ramps % 2 == 1)
    spawns_sooner = ramps & (state.spawn_period > 1)
    return state._replace(
        is_over=state.is_over | (state.oxygen <= 0) | (comes_up & ~surfaces),
        reward=state.reward + points,
        oxygen=jnp.where(surfaces, OXYGEN, state.oxygen - is_below),
        is_surfaced=~is_below & (state.is_surfaced | surfaces),
        on_board=jnp.where(surfaces, jnp.where(is_full, 0, state.on_board) - 1, state.on_board),
        move_period=state.move_period - moves_sooner,
        spawn_period=state.spawn_period - spawns_sooner,
        ramps=state.ramps + ramps,
    )


class Seaquest(MinAtar):
    """All six actions count."""

    planes = (
        "sub_front",
        "sub_back",
        "friendly_bullet",
        "trail",
        "enemy_bullet",
        "enemy_fish",
        "enemy_sub",
        "oxygen_gauge",
        "diver_gauge",
        "diver",
    )
    minimal_actions = (NOOP, LEFT, UP, RIGHT, DOWN, FIRE)
    step_draws = 5

    def start(self, draws: jax.Array) -> State:
        """At the surface with full oxygen, alone."""
        zeros = jnp.zeros(ENEMIES, jnp.int32)
        return State(
            row=jnp.int32(0),
            column=jnp.int32(5),
            is_rightward=jnp.bool_(False),
            bullets=nothing(BULLETS),
            enemies=nothing(ENEMIES),
            is_submarine=zeros > 0,
            move_timers=zeros,
            shot_timers=zeros,
            next_enemy=jnp.int32(0),
            enemy_bullets=nothing(ENEMIES),
            divers=nothing(DIVERS),
            diver_timers=jnp.zeros(DIVERS, jnp.int32),
            next_diver=jnp.int32(0),
            on_board=jnp.int32(0),
            oxygen=jnp.int32(OXYGEN),
            is_surfaced=jnp.bool_(True),
            shot_timer=jnp.int32(0),
            spawn_timer=jnp.int32(FIRST_SPAWN_PERIOD),
            spawn_period=jnp.int32(FIRST_SPAWN_PERIOD),
            move_period=jnp.int32(FIRST_MOVE_PERIOD),
            diver_spawn_timer=jnp.int32(DIVER_SPAWN_PERIOD),
            ramps=jnp.int32(0),
            reward=jnp.int32(0),
            is_over=jnp.bool_(False),
        )

    def play(self, state: State, action: jax.Array, draws: jax.Array) -> State:
        """The rules in their order."""
        state = state._replace(reward=jnp.int32(0))
        state = with_new_enemy(state, draws[:3])
        state = with_new_diver(state, draws[3:])
        state = steered(state, action)
        state = with_bullets_moved(state)
        state = with_divers_moved(state)
        state = with_enemies_moved(state)
        state = state._replace(
            spawn_timer=jnp.maximum(state.spawn_timer - 1, 0),
            diver_spawn_timer=jnp.maximum(state.diver_spawn_timer - 1, 0),
            shot_timer=jnp.maximum(state.shot_timer - 1, 0),
        )
        return breathed(state, self.is_ramping)

    def picture(self, state: State) -> jax.Array:
        """[10, 10, 10] bool; the bottom row shows oxygen and divers on board."""
        enemies = state.enemies
        divers = state.divers
        fish = enemies._replace(is_there=enemies.is_there & ~state.is_submarine)
        submarines = enemies._replace(is_there=enemies.is_there & state.is_submarine)
        trail = cells(enemies.row, enemies.behind(), enemies.is_there)
        trail |= cells(divers.row, divers.behind(), divers.is_there)
        line = jnp.arange(SIDE)
        in_bottom_row = (line == SIDE - 1)[:, None]
        gauge = line < jnp.maximum(state.oxygen, 0) * SIDE // OXYGEN
        on_board = (line >= SIDE - 1 - state.on_board) & (line < SIDE - 1)
        return jnp.stack(
            [
                cell(state.row, state.column),
                cell(state.row, state.column + jnp.where(state.is_rightward, -1, 1)),
                state.bullets.seen(),
                trail,
                state.enemy_bullets.seen(),
                fish.seen(),
                submarines.seen(),
                in_bottom_row & gauge[None],
                in_bottom_row & on_board[None],
                divers.seen(),
            ],
            axis=-1,
        )
