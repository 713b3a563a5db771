"""Every step of the games equals MinAtar's: its state is copied, its random draws are replayed.

MinAtar is under the GPL, and neither a requirement nor in the requirements for development. Where it
is installed (`pip install --no-deps MinAtar==1.0.15`), some thousand steps of each game are compared;
MINATAR_STEPS=100000 in the environment compares as many.

It plays with and without ramping, by a policy that gets somewhere. Most deaths are undone, as few
policies live to see a game become hard. Two comparisons are made: one step from each of its states,
in which every part of the successor counts, and whole episodes of ours with its actions and draws,
in which observations, rewards and ends count.

`python tests/envs/games/test_against_minatar.py` writes the episodes of `test_games.py`.
"""

import importlib.metadata
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.envs.games import asterix, breakout, freeway, seaquest, space_invaders
from missing_bits.envs.games.minatar import ACTIONS, MinAtar, Played
from missing_bits.envs.games.seaquest import Things
from missing_bits.tests.envs.games.replaying import Episodes, assert_equal, checksums, replayed

pytest.importorskip("minatar", reason="MinAtar is not installed")
import minatar

STEPS = int(os.environ.get("MINATAR_STEPS", "3000"))
CHUNK = 1000


class Dice:
    """NumPy's generator as MinAtar uses it, with what was drawn as numbers in [0, 1)."""

    def __init__(self, seed):
        self._random = np.random.RandomState(seed)
        self.drawn = []

    def rand(self, *shape):
        values = self._random.rand(*shape)
        self.drawn.append(values)
        return values

    def randint(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        values = self._random.randint(low, high, size)
        self.drawn.append((values - low + 0.5) / (high - low))
        return values


class Case(NamedTuple):
    """How one game is compared."""

    game: type[MinAtar]
    copied: Callable[[Any], dict[str, Any]]  # MinAtar's game -> our state, as NumPy holds it
    draws: Callable[[list], list[float]]  # what was drawn in a step but for stickiness -> our draws
    policy: Callable[[Any, np.random.RandomState], int]
    ramps: bool = True
    revives: bool = True
    comparable: Callable[[dict], dict] = lambda state: state  # what must be equal, vectorized


def any_action(env, random):
    return random.randint(len(ACTIONS))


def breakout_state(env):
    return {
        "paddle": env.pos,
        "row": env.ball_y,
        "column": env.ball_x,
        "down": 1 if env.ball_dir in (2, 3) else -1,
        "right": 1 if env.ball_dir in (1, 2) else -1,
        "last_row": env.last_y,
        "last_column": env.last_x,
        "bricks": env.brick_map != 0,
        "is_striking": env.strike,
    }


def follow_the_ball(env, random):
    """Most often to the column that the ball moves to."""
    if random.rand() < 0.05:
        return any_action(env, random)
    target = env.ball_x + (1 if env.ball_dir in (1, 2) else -1)
    return ACTIONS.index("left" if target < env.pos else "right" if target > env.pos else "noop")


def asterix_state(env):
    nothing = [0, 0, False, False]
    things = [thing if thing is not None else nothing for thing in env.entities]
    return {
        "row": env.player_y,
        "column": env.player_x,
        "is_there": np.array([thing is not None for thing in env.entities]),
        "thing_column": np.array([thing[0] for thing in things]),
        "is_rightward": np.array([thing[2] for thing in things]),
        "is_gold": np.array([thing[3] for thing in things]),
        "spawn_timer": env.spawn_timer,
        "spawn_period": env.spawn_speed,
        "move_timer": env.move_timer,
        "move_period": env.move_speed,
        "ramp_timer": env.ramp_timer,
        "ramps": env.ramp_index,
    }


def asterix_comparable(state):
    """What an empty row holds does not count."""
    ours = ("thing_column", "is_rightward", "is_gold")
    return state | {name: np.where(state["is_there"], state[name], 0) for name in ours}


def space_invaders_state(env):
    return {
        "cannon": env.pos,
        "bullets": env.f_bullet_map != 0,
        "alien_bullets": env.e_bullet_map != 0,
        "aliens": env.alien_map != 0,
        "direction": env.alien_dir,
        "move_period": env.enemy_move_interval,
        "move_timer": env.alien_move_timer,
        "alien_shot_timer": env.alien_shot_timer,
        "shot_timer": env.shot_timer,
        "ramps": env.ramp_index,
    }


def shoot_often(env, random):
    return ACTIONS.index("fire") if random.rand() < 0.3 else any_action(env, random)


def freeway_state(env):
    column, row, timer, speed = np.array(env.cars).T
    assert list(row) == list(range(1, 9))
    return {
        "row": env.pos,
        "move_timer": env.move_timer,
        "car_column": column,
        "car_timer": timer,
        "car_speed": np.abs(speed),
        "is_rightward": speed > 0,
        "time_left": env.terminate_timer,
    }


def freeway_draws(drawn):
    """A speed (five, in the middles of fifths) and a direction are one draw of ours."""
    if not drawn:
        return []
    speeds, directions = drawn
    return list((np.where(directions > 0.5, 1, 0) + speeds) / 2)


def mostly_up(env, random):
    return ACTIONS.index("up") if random.rand() < 0.8 else any_action(env, random)


def seaquest_things(count, rows, places=None):
    """MinAtar's [column, row, is rightward, ...] in places of ours."""
    places = range(len(rows)) if places is None else places
    things = {name: np.zeros(count, int) for name in ("is_there", *Things._fields[1:])}
    for place, (column, row, is_rightward, *_) in zip(places, rows, strict=False):
        for name, value in zip(Things._fields, (True, row, column, is_rightward), strict=True):
            things[name][place] = value
    return Things(
        things["is_there"] > 0, things["row"], things["column"], things["is_rightward"] > 0
    )


def seaquest_numbers(count, values):
    """Numbers of things in their places, 0 in the others."""
    return np.array(list(values) + [0] * (count - len(values)))


def seaquest_state(env):
    """Enemies stand in the first places, their bullets in the last ones."""
    enemies = env.e_fish + env.e_subs
    count = seaquest.ENEMIES
    assert len(enemies) + len(env.e_bullets) < count, "places"
    last = range(count - 1, -1, -1)
    return {
        "row": env.sub_y,
        "column": env.sub_x,
        "is_rightward": env.sub_or,
        "bullets": seaquest_things(seaquest.BULLETS, env.f_bullets),
        "enemies": seaquest_things(count, enemies),
        "is_submarine": np.arange(count) >= len(env.e_fish),
        "move_timers": seaquest_numbers(count, [enemy[3] for enemy in enemies]),
        "shot_timers": seaquest_numbers(
            count, [0] * len(env.e_fish) + [sub[4] for sub in env.e_subs]
        ),
        "next_enemy": len(enemies),
        "enemy_bullets": seaquest_things(count, env.e_bullets, last),
        "divers": seaquest_things(seaquest.DIVERS, env.divers),
        "diver_timers": seaquest_numbers(seaquest.DIVERS, [diver[3] for diver in env.divers]),
        "next_diver": len(env.divers) % seaquest.DIVERS,
        "on_board": env.diver_count,
        "oxygen": env.oxygen,
        "is_surfaced": env.surface,
        "shot_timer": env.shot_timer,
        "spawn_timer": env.e_spawn_timer,
        "spawn_period": env.e_spawn_speed,
        "move_period": env.move_speed,
        "diver_spawn_timer": env.d_spawn_timer,
        "ramps": env.ramp_index,
    }


def in_order(things, ages, *numbers):
    """[B, K, n] things in the order of their ages, their numbers beside them; 0 for no thing."""
    table = np.stack([*things, *numbers], axis=2).astype(int) * things.is_there[..., None]
    order = np.argsort(np.where(things.is_there, ages, 1000), axis=1, kind="stable")
    return np.take_along_axis(table, order[..., None], axis=1)


def seaquest_comparable(state):
    """Things by kind and age, those without an age by place; never mind where they are kept."""
    state = dict(state)
    is_sub = state.pop("is_submarine")
    next_enemy = state.pop("next_enemy")
    next_diver = state.pop("next_diver")
    ages = (np.arange(seaquest.ENEMIES) - next_enemy[:, None]) % seaquest.ENEMIES + 100 * is_sub
    moves = state.pop("move_timers")
    shots = np.where(is_sub, state.pop("shot_timers"), 0)
    state["enemies"] = in_order(state["enemies"], ages, is_sub, moves, shots)
    ages = (np.arange(seaquest.DIVERS) - next_diver[:, None]) % seaquest.DIVERS
    state["divers"] = in_order(state["divers"], ages, state.pop("diver_timers"))
    for name in ("bullets", "enemy_bullets"):
        things = state[name]
        places = (things.row * 10 + things.column) * 2 + things.is_rightward
        state[name] = in_order(things, places)
    return state


def seaquest_draws(drawn):
    """An enemy takes three draws, a diver two; what does not come is not drawn."""
    return {0: [], 2: [0.0, 0.0, 0.0, *drawn], 3: drawn, 5: drawn}[len(drawn)]


class DiverHunter:
    """Shoots and fetches divers; comes up with one, three or six, or too late; then goes down."""

    def __init__(self):
        self.rises = False
        self.enough = 1
        self.least_air = 40

    def __call__(self, env, random):
        chance = random.rand()
        if chance < 0.3:
            return ACTIONS.index("fire")
        if chance < 0.4:
            return any_action(env, random)
        if env.sub_y == 0:
            self.rises = False
            self.enough = random.choice([1, 3, 6, 6])
            self.least_air = random.choice([40, 40, 40, -5])
            return ACTIONS.index("down")
        self.rises |= env.diver_count >= self.enough
        self.rises |= env.oxygen < self.least_air and env.diver_count != 0
        if self.rises:
            return ACTIONS.index("up")
        if not env.divers:
            return ACTIONS.index(random.choice(["down", "left", "right"]))
        column, row, *_ = env.divers[0]
        if env.sub_y != row:
            return ACTIONS.index("down" if env.sub_y < row else "up")
        return ACTIONS.index("left" if env.sub_x > column else "right")


CASES = {
    "seaquest": Case(
        seaquest.Seaquest,
        seaquest_state,
        seaquest_draws,
        DiverHunter(),
        comparable=seaquest_comparable,
    ),
    "asterix": Case(
        asterix.Asterix, asterix_state, list, any_action, comparable=asterix_comparable
    ),
    "space_invaders": Case(space_invaders.SpaceInvaders, space_invaders_state, list, shoot_often),
    "freeway": Case(
        freeway.Freeway, freeway_state, freeway_draws, mostly_up, ramps=False, revives=False
    ),
    "breakout": Case(
        breakout.Breakout, breakout_state, list, follow_the_ball, ramps=False, revives=False
    ),
}


class Log(NamedTuple):
    """T steps of MinAtar, arrays [T, ...]."""

    before: dict
    last_action: np.ndarray
    action: np.ndarray
    draws: np.ndarray
    is_first: np.ndarray  # an episode begins with this step
    start_draws: np.ndarray
    after: dict
    observation: np.ndarray  # after the step


def stacked(rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def record(name, case, is_ramping, steps):
    """Let MinAtar play."""
    theirs = minatar.Environment(name, difficulty_ramping=is_ramping)
    dice = Dice(0)
    theirs.random = dice
    theirs.env.random = dice
    random = np.random.RandomState(1)
    rows = []
    is_first = True
    for _ in range(steps):
        if is_first:
            dice.drawn.clear()
            theirs.reset()
            start_draws = case.draws(dice.drawn)
            theirs.last_action = 0
        env = theirs.env
        before = case.copied(env) | {"reward": 0, "is_over": False}
        last_action = theirs.last_action
        dice.drawn.clear()
        action = case.policy(env, random)
        reward, is_over = theirs.act(action)
        sticky, *others = dice.drawn
        drawn = case.draws(others)
        drawn = [sticky, *drawn, *[0.0] * (case.game.step_draws - len(drawn))]
        after = case.copied(env) | {"reward": reward, "is_over": is_over}
        observation = theirs.state()
        rows.append((before, last_action, action, drawn, is_first, start_draws, after, observation))
        is_first = is_over and not (case.revives and random.rand() < 0.95)
        env.terminal = False
    befores, *others, afters, observations = zip(*rows, strict=True)
    others = [np.stack(column) for column in others]
    return Log(stacked(befores), *others, stacked(afters), np.stack(observations))


RUNS = [(name, True) for name in CASES] + [(name, False) for name in CASES if CASES[name].ramps]


@pytest.fixture(scope="module", params=RUNS, ids=str)
def played(request):
    """A game of ours, and how MinAtar has played it."""
    assert importlib.metadata.version("MinAtar") == "1.0.15"
    name, is_ramping = request.param
    case = CASES[name]
    game = case.game(difficulty_ramping=is_ramping, use_minimal_action_set=False)
    log = record(name, case, is_ramping, STEPS if is_ramping else max(CHUNK, STEPS // 10))
    return case, game, log


def as_ours(game, rows):
    """Copied states as our records, of the types that our first states have."""
    first = game.start(jnp.zeros(game.start_draws))
    return jax.tree.map(lambda leaf, row: np.asarray(row, leaf.dtype), first, type(first)(**rows))


def test_one_step_from_every_state(played):
    case, game, log = played
    advance = jax.jit(jax.vmap(game.advance))
    observe = jax.jit(jax.vmap(lambda state: game.observation(state, None)))
    states = Played(as_ours(game, log.before), log.last_action.astype(np.int32))
    draws = log.draws.astype(np.float32)
    wrong = {}
    for start in range(0, len(draws), CHUNK):
        part = slice(start, start + CHUNK)
        after = advance(jax.tree.map(lambda x, p=part: x[p], states), log.action[part], draws[part])
        ours = case.comparable(jax.tree.map(np.asarray, after.game._asdict()))
        expected = case.comparable(jax.tree.map(lambda x, p=part: x[p], log.after))
        assert ours.keys() == expected.keys()
        ours["observation"] = np.asarray(observe(after))
        expected["observation"] = log.observation[part]
        for name, rows in expected.items():
            differs = (ours[name] != rows).reshape(len(rows), -1).any(1)
            if differs.any():
                wrong.setdefault(name, []).extend(start + np.flatnonzero(differs))
    assert not wrong, {name: (len(at), at[:5]) for name, at in wrong.items()}


def episodes_of(log):
    """What MinAtar has played, to be played again."""
    return Episodes(
        log.is_first,
        log.start_draws.astype(np.float32),
        log.action.astype(np.int32),
        log.draws.astype(np.float32),
        log.after["reward"],
        log.after["is_over"],
        checksums(log.observation),
    )


def test_whole_episodes(played):
    _, game, log = played
    theirs = episodes_of(log)
    assert_equal(replayed(game, theirs), theirs)
    assert theirs.is_first.sum() > 1, "several episodes"
    assert theirs.reward.sum() > 5, "points were made"


@pytest.mark.parametrize("name", CASES)
def test_spaces_and_actions(name):
    theirs = minatar.Environment(name)
    game = CASES[name].game()
    assert list(game.observation_space.shape) == theirs.state_shape()
    assert list(game.minimal_actions) == theirs.minimal_action_set()
    assert list(game.planes) == [plane.replace("guage", "gauge") for plane in theirs.env.channels]
    assert list(ACTIONS) == ["noop", "left", "up", "right", "down", "fire"]
    assert theirs.env.action_map == [action[0] for action in ACTIONS]


def write_episodes():
    """Let MinAtar play a thousand steps of each game, for those who have not installed it."""
    arrays = {}
    for name, case in CASES.items():
        for field, array in episodes_of(record(name, case, True, 1000))._asdict().items():
            arrays[f"{name}/{field}"] = array
    np.savez_compressed(pathlib.Path(__file__).parent / "episodes.npz", **arrays)


if __name__ == "__main__":
    write_episodes()
