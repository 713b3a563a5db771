"""DQN's loss by hand, its exploration, its cadence, and that it learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.agents.dqn import DQN, Config
from missing_bits.errors import UserError
from missing_bits.loop.parallel import Layout
from missing_bits.replay.uniform import Transitions

SMALL = {"env": "phys2d/CartPole-v1", "hidden_sizes": (), "n_step": 1}
# Two transitions; the last one is terminal. Observations are one-hot, so a linear network reads off a table.
BATCH = Transitions(
    s_tm1=np.eye(4, dtype=np.float32)[[0, 1]],
    a_tm1=np.array([0, 1]),
    r_t=np.array([1.0, -3.0], np.float32),
    discount_t=np.array([0.9, 0.0], np.float32),
    s_t=np.eye(4, dtype=np.float32)[[2, 3]],
)
ONLINE = np.array([[1.0, 2.0], [0.5, 0.0], [4.0, 3.0], [9.0, 9.0]], np.float32)  # [state, action]
TARGET = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 5.0], [7.0, 7.0]], np.float32)


def table(values):
    return {"mlp/~/linear_0": {"w": jnp.asarray(values), "b": jnp.zeros(2)}}


class LossTest(chex.TestCase):
    @chex.all_variants()
    def test_plain_squared(self):
        # max target Q(2) = 5: errors 1 + 0.9 * 5 - 1 = 4.5 and -3 - 0 = -3; (4.5^2 + 3^2) / 2 / 2 = 7.3125.
        self._check(double=False, huber=False, expected=7.3125)

    @chex.all_variants()
    def test_plain_huber(self):
        # |error| - 1/2 beyond 1: (4.0 + 2.5) / 2 = 3.25.
        self._check(double=False, huber=True, expected=3.25)

    @chex.all_variants()
    def test_double_squared(self):
        # The online network prefers action 0 in state 2, which the target values 1: error 1 + 0.9 - 1 = 0.9.
        # (0.9^2 + 3^2) / 2 / 2 = 2.4525.
        self._check(double=True, huber=False, expected=2.4525)

    @chex.all_variants()
    def test_double_huber(self):
        # (0.9^2 / 2 + 2.5) / 2 = 1.4525.
        self._check(double=True, huber=True, expected=1.4525)

    def _check(self, double, huber, expected):
        agent = DQN(Config(**SMALL, double=double, huber=huber))
        loss, value = self.variant(agent.loss)(table(ONLINE), table(TARGET), BATCH)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(value, 0.5, rtol=1e-6)  # (Q(0, 0) + Q(1, 1)) / 2 = (1 + 0) / 2


def test_no_gradient_reaches_the_target():
    agent = DQN(Config(**SMALL, double=True))
    grads = jax.grad(lambda target: agent.loss(table(ONLINE), target, BATCH)[0])(table(TARGET))
    assert not np.any(grads["mlp/~/linear_0"]["w"])
    grads = jax.grad(lambda online: agent.loss(online, table(TARGET), BATCH)[0])(table(ONLINE))
    assert np.any(grads["mlp/~/linear_0"]["w"][:2])
    assert not np.any(grads["mlp/~/linear_0"]["w"][2:])  # s_t: the selector passes no gradient


def test_epsilon_falls_linearly_and_stays():
    agent = DQN(Config(**SMALL, epsilon_final=0.1, epsilon_decay_steps=100))
    # 1 - 0.9 * 50 / 100 = 0.55
    values = [float(agent.epsilon(steps)) for steps in (0, 50, 100, 500)]
    np.testing.assert_allclose(values, [1.0, 0.55, 0.1, 0.1], rtol=1e-6)


def test_exploration_is_drawn_per_environment_at_its_rate():
    agent = DQN(Config(**SMALL, epsilon_final=0.5, epsilon_decay_steps=1))
    # Action 0 is greedy everywhere, so action 1 comes from exploration alone: a rate of 0.5 / 2.
    observation, envs = np.tile(np.float32([1, 0, 0, 0]), (20_000, 1)), 20_000
    actions = np.asarray(
        agent.act(table(TARGET - [[0.0, 1.0]]), observation, 10, jax.random.key(0))
    )
    sigma = np.sqrt(0.25 * 0.75 / envs)
    assert abs(actions.mean() - 0.25) < 4 * sigma


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_the_target_moves_exactly_when_its_period_has_passed(num_envs, tau):
    # Updates every 4 steps, target every 10: after updates at 12, 20, 32, 40, ... steps, for any number of envs.
    agent = DQN(
        Config(
            env="phys2d/CartPole-v1",
            num_envs=num_envs,
            hidden_sizes=(8,),
            train_period=4,
            target_period=10,
            target_tau=tau,
            n_step=1,
            learning_starts=36,
            batch_size=8,
            replay_capacity=200,
            env_steps=200,
        )
    )
    step, state, moved = jax.jit(agent.step), agent.init(jax.random.key(0)), []
    for i in range(30):
        before = state.target_params
        state, _ = step(state, None, jax.random.key(i))
        expected = jax.tree.map(lambda p, t: tau * p + (1 - tau) * t, state.params, before)
        if any(
            jax.tree.leaves(
                jax.tree.map(lambda a, b: bool((a != b).any()), before, state.target_params)
            )
        ):
            moved.append(4 * (i + 1))
            chex.assert_trees_all_close(state.target_params, expected, rtol=1e-5, atol=1e-7)
    assert moved == [40, 52, 60, 72, 80, 92, 100, 112, 120]


def test_nothing_is_learned_before_learning_starts():
    agent = DQN(Config(**SMALL, learning_starts=100, train_period=10, env_steps=1_000))
    step, first = jax.jit(agent.step), agent.init(jax.random.key(0))
    state = first
    for i in range(9):  # 90 environment steps
        state, _ = step(state, None, jax.random.key(i))
    chex.assert_trees_all_equal(first.params, state.params)
    state, _ = step(state, None, jax.random.key(9))  # 100
    assert any(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), first.params, state.params))
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 60_000}, "--batch-size is 60000; it must lie between 1 and 50000"),
        ({"num_envs": 0}, "--num-envs is 0; it must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0; it must be above 0"),
        ({"discount": 1.5}, "--discount is 1.5; it must lie between 0 and 1"),
        ({"hidden_sizes": (32, 0)}, "--hidden-sizes is 0"),
        ({"learning_starts": 5, "num_envs": 8}, "--learning-starts is 5"),
        ({"vectorization": "fast"}, "--vectorization=fast"),
        ({"vectorization": "async"}, "JAX-native"),
    ],
)
def test_settings_that_cannot_run_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        DQN(Config(**{"env": "phys2d/CartPole-v1"} | settings))


def test_it_learns_cartpole():
    # About 9.4 is what a constant action earns, 22 a random one; a run of the defaults reaches 475 (docs/results.md).
    agent = DQN(Config(env="phys2d/CartPole-v1", num_envs=4, env_steps=10_000, eval_episodes=16))
    layout, updates = Layout([0], 1), 5_000
    state, _ = layout.updates(agent)(layout.init(agent), None, 0, updates)
    evaluation = agent.evaluate(layout.learned(agent, state)[0], layout.evaluation_key(0, updates))
    assert evaluation["eval/return_mean"] > 200
