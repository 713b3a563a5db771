"""The games of MinAtar: episodes that MinAtar 1.0.15 has played, and single rules by hand."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.envs.games import minatar
from missing_bits.envs.games.asterix import Asterix
from missing_bits.envs.games.breakout import Breakout
from missing_bits.envs.games.freeway import Freeway
from missing_bits.envs.games.minatar import DOWN, FIRE, LEFT, NOOP, RIGHT, UP
from missing_bits.envs.games.seaquest import Seaquest
from missing_bits.envs.games.space_invaders import SpaceInvaders
from missing_bits.tests.envs.games.replaying import Episodes, assert_equal, replayed

GAMES = {
    "breakout": Breakout,
    "asterix": Asterix,
    "space_invaders": SpaceInvaders,
    "freeway": Freeway,
    "seaquest": Seaquest,
}


@functools.cache
def jitted(game):
    return jax.jit(game.play)


def after(game, state, *actions, draws=None):
    """The game's state after some actions; nothing comes where the draws are not given."""
    draws = jnp.zeros(game.step_draws) if draws is None else jnp.float32(draws)
    for action in actions:
        state = jitted(game)(state, jnp.int32(action), draws)
    return state


def start(game, *draws):
    return game.start(jnp.float32(draws or [0.0] * game.start_draws))


@pytest.mark.parametrize("name", GAMES)
def test_minatars_episodes(name):
    """A thousand steps each, most deaths undone; `test_against_minatar.py` has recorded them."""
    file = np.load(pathlib.Path(__file__).parent / "episodes.npz")
    theirs = Episodes(*(file[f"{name}/{field}"] for field in Episodes._fields))
    assert theirs.reward.sum() > 0
    game = GAMES[name](use_minimal_action_set=False)
    assert_equal(replayed(game, theirs), theirs)


def test_breakout_a_brick_breaks_and_turns_the_ball():
    """From row 3 the ball meets the wall's lowest row when it comes up again from row 4."""
    game = Breakout()
    state = start(game, 0.2)._replace(
        row=jnp.int32(4), column=jnp.int32(4), down=jnp.int32(-1), right=jnp.int32(1)
    )
    hit = after(game, state, NOOP)
    assert (int(hit.row), int(hit.column), int(hit.down), int(hit.right)) == (4, 5, 1, 1)
    assert int(hit.reward) == 1
    assert (bool(state.bricks[3, 5]), bool(hit.bricks[3, 5]), int(hit.bricks.sum())) == (
        *(True, False),
        29,
    )


@pytest.mark.parametrize(
    ("paddle", "moves"), [(4, (4, -1, 1)), (5, (5, -1, -1)), (7, None), (3, None)]
)
def test_breakout_the_paddle_sends_the_ball_back_or_the_game_ends(paddle, moves):
    """A ball in row 8 and column 4 that moves down to the right, to column 5."""
    game = Breakout()
    state = start(game, 0.2)._replace(
        row=jnp.int32(8), column=jnp.int32(4), paddle=jnp.int32(paddle)
    )
    end = after(game, state, NOOP)
    assert bool(end.is_over) == (moves is None)
    if moves:
        assert (int(end.row), int(end.down), int(end.right)) == (8, *moves[1:])
        assert int(end.column) == 5


def test_asterix_treasure_is_worth_a_point_and_an_enemy_ends_the_game():
    game = Asterix()
    state = start(game)._replace(
        is_there=jnp.arange(8) == 4,  # row 5, the player's
        thing_column=jnp.full(8, 6),
        is_gold=jnp.ones(8, bool),
    )
    taken = after(game, state, RIGHT)
    assert (int(taken.reward), bool(taken.is_over), bool(taken.is_there.any())) == (1, False, False)
    died = after(game, state._replace(is_gold=jnp.zeros(8, bool)), RIGHT)
    assert (int(died.reward), bool(died.is_over), bool(died.is_there.any())) == (0, True, True)


def test_asterix_things_come_into_empty_rows():
    """A draw of 0.6 among three empty rows is the second one; in the eleventh step one comes."""
    game = Asterix()
    full = jnp.array([True, False, True, True, False, True, False, True])
    state = start(game)._replace(is_there=full, is_rightward=full, thing_column=jnp.full(8, 4))
    state = state._replace(row=jnp.int32(8), column=jnp.int32(0), spawn_timer=jnp.int32(0))
    spawned = after(game, state, NOOP, draws=[0.6, 0.2, 0.6])
    np.testing.assert_array_equal(spawned.is_there, full | (jnp.arange(8) == 4))
    assert (int(spawned.thing_column[4]), bool(spawned.is_gold[4])) == (9, True)
    assert not spawned.is_rightward[4]


def test_asterix_becomes_harder_every_102_steps():
    """Things come sooner each time, and move sooner every second time."""
    for is_ramping, expected in ((True, [(10, 5), (9, 5), (8, 4)]), (False, [(10, 5)] * 3)):
        game = Asterix(difficulty_ramping=is_ramping)
        state = start(game)
        periods = []
        for _ in range(3):
            periods.append((int(state.spawn_period), int(state.move_period)))
            state = after(game, state, *[NOOP] * 102)
        assert periods == expected


def test_space_invaders_shots_are_five_steps_apart():
    game = SpaceInvaders()
    state = start(game)
    bullets = []
    for _ in range(7):
        state = after(game, state, FIRE)
        bullets.append(int(state.bullets.sum()) + int(state.reward))
    # The first bullet, from row 9, reaches row 3, the lowest one of aliens, in the sixth step.
    assert bullets == [1, 1, 1, 1, 1, 2, 1]
    assert int(state.aliens.sum()) == 23


@pytest.mark.parametrize(("period", "next_period"), [(12, 11), (7, 6), (6, 6)])
def test_space_invaders_the_next_wave_moves_sooner(period, next_period):
    """The last alien is hit in row 3, by a bullet from row 4; without ramping nothing changes."""
    for is_ramping in (True, False):
        game = SpaceInvaders(difficulty_ramping=is_ramping)
        nothing = jnp.zeros((10, 10), bool)
        state = start(game)._replace(
            aliens=nothing.at[3, 2].set(True),
            bullets=nothing.at[4, 2].set(True),
            move_period=jnp.int32(period),
        )
        cleared = after(game, state, NOOP)
        assert (int(cleared.reward), int(cleared.aliens.sum())) == (1, 24)
        assert int(cleared.move_period) == (next_period if is_ramping else period)


def test_freeway_a_chicken_crosses():
    """Nine moves, one in every third step, on a road whose cars are far away."""
    game = Freeway()
    state = start(game)._replace(car_timer=jnp.full(8, 100), move_timer=jnp.int32(0))
    rows = []
    for _ in range(9):
        state = after(game, state, UP, UP, UP)
        rows.append(int(state.row))
    assert rows[:-1] == [8, 7, 6, 5, 4, 3, 2, 1]
    state = start(game)._replace(row=jnp.int32(1), move_timer=jnp.int32(0))
    arrived = after(game, state, UP, draws=np.linspace(0.05, 0.75, 8))
    assert (int(arrived.reward), int(arrived.row)) == (1, 9)
    # Tenths 0 to 7: speeds 1 to 5 to the left, then 1 to 3 to the right.
    np.testing.assert_array_equal(arrived.car_speed, [1, 2, 3, 4, 5, 1, 2, 3])
    np.testing.assert_array_equal(arrived.is_rightward, [False] * 5 + [True] * 3)


def test_seaquest_coming_up_with_six_divers():
    """With 139 of 200 steps of oxygen: 139 * 10 // 200 = 6 points; then -1 are on board."""
    game = Seaquest()
    below = start(game)._replace(
        row=jnp.int32(1), is_surfaced=jnp.bool_(False), oxygen=jnp.int32(139)
    )
    full = after(game, below._replace(on_board=jnp.int32(6)), UP)
    assert (int(full.reward), int(full.on_board), int(full.oxygen)) == (6, -1, 200)
    assert int(full.spawn_period) == 19
    some = after(game, below._replace(on_board=jnp.int32(3)), UP)
    assert (int(some.reward), int(some.on_board), int(some.oxygen)) == (0, 2, 200)
    assert not bool(some.is_over)
    assert bool(after(game, below, UP).is_over)


def test_seaquest_a_bullet_hits():
    """A fish one cell beyond the bullet's; the submarine turns and fires to the right."""
    game = Seaquest()
    state = start(game)
    state = after(game, state, *[DOWN] * 3, RIGHT)  # row 3, column 6
    fish = state.enemies._replace(
        is_there=jnp.arange(32) == 7, row=jnp.full(32, 3), column=jnp.full(32, 7)
    )
    hit = after(game, state._replace(enemies=fish, move_timers=jnp.full(32, 3)), FIRE)
    assert (int(hit.reward), int(hit.enemies.is_there.sum())) == (1, 0)
    assert int(hit.bullets.is_there.sum()) == 0
    rammed = after(game, state._replace(enemies=fish, move_timers=jnp.full(32, 3)), RIGHT)
    assert bool(rammed.is_over)


@pytest.mark.parametrize("probability", [0.1, 0.0])
def test_actions_stick_at_their_rate(probability):
    """Of 10,000 chosen moves to the right, each after one to the left, a tenth goes to the left."""
    game = Breakout(sticky_action_prob=probability)
    key = jax.random.key(0)
    state = game.initial(key)
    assert int(state.last_action) == NOOP
    state = state._replace(last_action=jnp.int32(LEFT))
    chosen = 2  # none, left and right are the actions that count
    keys = jax.random.split(key, 10_000)
    made = jax.jit(jax.vmap(lambda k: game.transition(state, chosen, k)))(keys)
    assert set(np.unique(made.last_action)) <= {LEFT, RIGHT}
    rate = np.mean(made.last_action == LEFT)
    assert abs(rate - probability) <= 4 * np.sqrt(probability * (1 - probability) / 10_000)
    np.testing.assert_array_equal(made.game.paddle, np.where(made.last_action == LEFT, 3, 5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sticky_action_prob": 7}, "sticky_action_prob is 7; it must be a number from 0 to 1"),
        ({"sticky_action_prob": True}, "sticky_action_prob is True; it must be a number"),
        ({"sticky_action_prob": "x"}, "sticky_action_prob is 'x'; it must be a number from 0 to"),
        ({"sticky_action_prob": float("nan")}, "sticky_action_prob is nan"),
        ({"difficulty_ramping": "false"}, "difficulty_ramping is 'false'; it must be true or"),
        ({"use_minimal_action_set": 0}, "use_minimal_action_set is 0; it must be true or false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Breakout(**settings)


@pytest.mark.parametrize("name", GAMES)
def test_action_sets_and_observations(name):
    game = GAMES[name]()
    whole = GAMES[name](use_minimal_action_set=False)
    assert (game.action_space.n, whole.action_space.n) == (len(game.minimal_actions), 6)
    key = jax.random.key(1)
    observation = np.asarray(game.observation(game.initial(key), key))
    assert game.observation_space.contains(observation)
    assert set(np.unique(observation)) == {0, 1}


def test_cells_beyond_the_grid_are_not_seen():
    rows = jnp.array([0, 3, 3, 9, 5])
    columns = jnp.array([0, -1, 4, 10, 5])
    seen = minatar.cells(rows, columns, jnp.array([True, True, True, True, False]))
    assert np.argwhere(seen).tolist() == [[0, 0], [3, 4]]
