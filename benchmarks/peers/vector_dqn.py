"""Time DQN on CartPole in torch, many seeds at once, everything on the device; print JSON.

Needs torch alone (requirements-torch.txt beside this file); `accelerator.py` starts it:

    python vector_dqn.py --seeds=64 --envs=10 --settings='{"batch_size": 128, ...}' --seconds=5

Environments, replay and learner are tensors with an axis of seeds before their own, so that a
product serves all seeds. An update is one step of every environment and one batch of every seed.
"""

import argparse
import itertools
import json
from collections.abc import Iterator

import timing
import torch
import torch.nn.functional as F

EPISODE_LIMIT = 500  # steps


class QNetworks:
    """An MLP with ReLU for each seed.

    Args:
      seeds: S.
      sizes: of the layers, the input's first.
      device: where parameters are.
    """

    def __init__(self, seeds: int, sizes: list[int], device: str):
        self.weights = []
        self.biases = []
        for inputs, outputs in itertools.pairwise(sizes):
            w = torch.randn(seeds, inputs, outputs, device=device) * inputs**-0.5
            self.weights.append(w.requires_grad_())
            self.biases.append(torch.zeros(seeds, 1, outputs, device=device, requires_grad=True))

    def parameters(self) -> list[torch.Tensor]:
        """All of them, each [S, ...]."""
        return [*self.weights, *self.biases]

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        """Values [S, B, A] of observations [S, B, 4]."""
        last = len(self.weights) - 1
        for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            s = torch.baddbmm(b, s, w)
            if layer < last:
                s = F.relu(s)
        return s

    @torch.no_grad()
    def copy(self, other: "QNetworks") -> None:
        """Takes the parameters of another."""
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)


def start(seeds: int, envs: int, device: str) -> torch.Tensor:
    """Observations [S, E, 4] at the start of episodes."""
    return torch.rand(seeds, envs, 4, device=device) * 0.1 - 0.05


def physics(s: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Gymnasium's CartPole: successors [S, E, 4] of observations and actions [S, E]."""
    x, x_dot, theta, theta_dot = s.unbind(-1)
    force = 20.0 * action - 10.0
    cosine = theta.cos()
    sine = theta.sin()
    pushed = (force + 0.05 * theta_dot.square() * sine) / 1.1
    theta_acc = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine.square() / 1.1))
    x_acc = pushed - 0.05 * theta_acc * cosine / 1.1
    moved = [x + 0.02 * x_dot, x_dot + 0.02 * x_acc]
    moved += [theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc]
    return torch.stack(moved, dim=-1)


def fallen(s: torch.Tensor) -> torch.Tensor:
    """Whether episodes [S, E] end in observations [S, E, 4]."""
    return (s[..., 0].abs() > 2.4) | (s[..., 2].abs() > 12 * 2 * torch.pi / 360)


class Replay:
    """Rings of transitions, one of `rows` for each seed."""

    def __init__(self, seeds: int, rows: int, device: str):
        self.s = torch.zeros(seeds, rows, 4, device=device)
        self.s_t = torch.zeros(seeds, rows, 4, device=device)
        self.action = torch.zeros(seeds, rows, dtype=torch.long, device=device)
        self.discount = torch.zeros(seeds, rows, device=device)
        self.rows = rows
        self.inserted = 0

    def insert(
        self, s: torch.Tensor, action: torch.Tensor, discount: torch.Tensor, s_t: torch.Tensor
    ) -> None:
        """Appends one transition of every environment, leaves [S, E, ...]."""
        first = self.inserted % self.rows
        place = slice(first, first + s.shape[1])
        self.s[:, place] = s
        self.s_t[:, place] = s_t
        self.action[:, place] = action
        self.discount[:, place] = discount
        self.inserted += s.shape[1]

    def sample(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Transitions [S, B, ...]: observation, action, discount, successor."""
        stored = min(self.inserted, self.rows)
        seeds = self.s.shape[0]
        row = torch.randint(stored, (seeds, batch), device=self.s.device)
        wide = row[..., None].expand(-1, -1, 4)
        return (
            self.s.gather(1, wide),
            self.action.gather(1, row),
            self.discount.gather(1, row),
            self.s_t.gather(1, wide),
        )


def updates(seeds: int, envs: int, s: dict, device: str) -> Iterator[torch.Tensor]:
    """Makes an update whenever asked for its loss.

    Args:
      seeds: trained at once.
      envs: of each seed; the replay's capacity is a multiple.
      s: settings, those of dqn_speed.py.
      device: torch's name of it.
    """
    sizes = [4, *s["hidden_sizes"], 2]
    online = QNetworks(seeds, sizes, device)
    target = QNetworks(seeds, sizes, device)
    target.copy(online)
    adam = torch.optim.Adam(
        online.parameters(), s["learning_rate"], eps=1e-5, fused=device != "cpu"
    )
    replay = Replay(seeds, s["replay_capacity"], device)
    observation = start(seeds, envs, device)
    elapsed = torch.zeros(seeds, envs, device=device)
    for update in itertools.count():
        with torch.no_grad():
            epsilon = max(
                s["epsilon_final"],
                1 - (1 - s["epsilon_final"]) * update * envs / s["epsilon_decay_steps"],
            )
            explores = torch.rand(seeds, envs, device=device) < epsilon
            random = torch.randint(2, (seeds, envs), device=device)
            action = torch.where(explores, random, online(observation).argmax(-1))
            s_t = physics(observation, action)
            elapsed += 1
            terminated = fallen(s_t)
            replay.insert(observation, action, s["discount"] * ~terminated, s_t)
            over = terminated | (elapsed >= EPISODE_LIMIT)
            observation = torch.where(over[..., None], start(seeds, envs, device), s_t)
            elapsed *= ~over
            s_tm1, a_tm1, discount_t, s_next = replay.sample(s["batch_size"])
            regressed = 1 + discount_t * target(s_next).amax(-1)  # the reward is always 1
        q_tm1 = online(s_tm1).gather(2, a_tm1[..., None])[..., 0]  # [S, B]
        # Summed over seeds: the gradient of each seed is its own.
        loss = F.smooth_l1_loss(q_tm1, regressed, reduction="none").mean(dim=1)
        adam.zero_grad()
        loss.sum().backward()
        clip(online.parameters(), 10.0)
        adam.step()
        if (update + 1) * envs % s["target_period"] == 0:
            target.copy(online)
        yield loss.detach().mean()


@torch.no_grad()
def clip(parameters: list[torch.Tensor], most: float) -> None:
    """Scales the gradients of each seed to at most this length."""
    squares = sum(p.grad.square().sum(dim=(1, 2)) for p in parameters)  # [S]
    scale = (most / squares.sqrt().clamp(min=1e-6)).clamp(max=1.0)
    for p in parameters:
        p.grad *= scale[:, None, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, required=True, help="trained at once")
    parser.add_argument("--envs", type=int, required=True, help="of each seed")
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="those of dqn_speed.py, as JSON"
    )
    timing.add_options(parser)
    args = parser.parse_args()
    timing.prepare(args.device)
    made = updates(args.seeds, args.envs, args.settings, args.device)
    print(json.dumps(timing.measure(lambda: next(made), args.seconds, args.device)))


if __name__ == "__main__":
    main()
