"""A trained agent plays: its returns, a window or a picture of it, and its policy for elsewhere.

python run.py play --from=RUN --out=episodes.gif
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from missing_bits import options
from missing_bits.commands import command_line
from missing_bits.commands.compare import check_out
from missing_bits.errors import UserError, remedy, require
from missing_bits.notes import say
from missing_bits.pictures import canvas

if TYPE_CHECKING:  # what is imported late, so that --help and mistakes are quick
    from PIL.Image import Image

    from missing_bits.agents.policies import Loaded
    from missing_bits.envs.environments import Environments, Envs
    from missing_bits.envs.episodes import Drawing, Frame

_PICTURES = 1_000  # of all episodes together
_FEWEST = 2  # pictures of an episode: its start and its end


@dataclass(frozen=True)
class Config:
    """The policy that a run has left plays episodes, as it was judged: greedily, or with the
    --eval-epsilon of its run. Prints the return and the length of each. Draws them into a file,
    or in a window where there is a display; --export writes the policy for use without this
    suite, and plays nothing."""

    run: Annotated[str, tyro.conf.arg(name="from")]
    """Folder of a finished run of an agent, or one of its policy/seed*.safetensors."""
    episodes: int = 3
    """How many."""
    seed: int = 0
    """Of the episodes."""
    out: str = ""
    """File to draw the episodes into, which ends in .gif or .mp4."""
    export: str = ""
    """File for the policy as a function of its own (jax.export), from observations [B, ...] to
    actions [B] for any B, on CPUs, CUDA GPUs and TPUs."""
    env: str = ""
    """Environment to play in, with the same spaces; by default that of the run. One that names code
    of your own must be given."""
    env_kwargs: str = ""
    """What it is made with, as a JSON object; by default as in the run."""
    wrappers: tuple[str, ...] = ()
    """Around it; by default those of the run. Your own must be given."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("play", Config, arguments)
    require(config.episodes >= 1, f"--episodes is {config.episodes}; it must be at least 1.")
    require(config.seed >= 0, f"--seed is {config.seed}; it must be at least 0.")
    out = Path(config.out) if config.out else None
    if out is not None:
        check_out(out, (".gif", ".mp4"))
        most = _PICTURES // _FEWEST
        require(
            config.episodes <= most,
            f"--episodes is {config.episodes}; with --out, whose pictures are all kept until the "
            f"end, there may be {most}.",
        )
    from missing_bits.agents import policies

    policy = policies.load(config.run)
    if config.export:
        require(out is None, "--export writes the policy and plays nothing; leave out --out.")
        export(policy, Path(config.export))
        return 0
    play(policy, config, out)
    return 0


def export(policy: "Loaded", path: Path) -> None:
    """Writes a policy as a serialized function, and its card as JSON beside it.

    Raises:
      UserError: the file cannot be written, or something else would be lost.
    """
    from missing_bits import handover
    from missing_bits.agents import policies

    card = path.with_suffix(".json")
    require(
        path.suffix not in ("", ".json", ".safetensors") and path.parent.is_dir(),
        f"--export={path}: name a file such as policy.bin in a folder that is there.",
    )
    require(
        path.exists() == card.exists(),
        f"--export={path} writes {path.name} and {card.name}, but there is only one of them, of "
        "something else. Name another file.",
    )
    try:
        path.write_bytes(policies.export(policy))
        handover.write_card(path, policy.card)
    except OSError as error:
        raise UserError(
            f"--export={path} cannot be written: {error.strerror}. {remedy(error)}"
        ) from error
    print(f"Policy: {path}, what it is: {card}")


class Played(NamedTuple):
    """An episode."""

    total: float
    """Its return."""
    steps: int
    pictures: list["Image"]


def play(policy: "Loaded", config: Config, out: Path | None) -> None:
    """Plays episodes, prints their returns and draws them.

    Args:
      policy: what plays.
      config: how.
      out: the file to draw into, or None.

    Raises:
      UserError: the environment cannot be played or drawn.
    """
    from missing_bits.envs import episodes
    from missing_bits.envs.gymnasium_envs import episode_seed
    from missing_bits.envs.steps import Player
    from missing_bits.pictures import episodes as pictures
    from missing_bits.results import protocols, table

    if out is not None and out.suffix == ".mp4":
        pictures.check_video()
    envs = environment(policy, config)
    found = envs.find(1)
    _check_spaces(policy, envs.env, found)
    drawing = _drawing(episodes.drawings(envs.recipe()), envs.env, out)
    player = Player(
        lambda num_envs: (),
        lambda learned, memory, observations, reset: (policy(observations), memory),
    )
    print(table.plain(_whose(policy.card)))
    protocol = {**found.protocol, "episodes": config.episodes}
    print(table.plain(f"protocol: {protocols.words(protocol)}"))
    most = max(_FEWEST, min(pictures.FRAMES, _PICTURES // config.episodes))
    played = []
    with episodes.opened(envs.recipe(), drawing) as env:
        for i in range(config.episodes):
            seed = episode_seed(config.seed, "play", 0, i)
            in_frames = drawing == "rgb_array"
            frames = episodes.play(env, envs.judging, player, None, seed, in_frames)
            played.append(_episode(frames, most if in_frames else 0))
            print(f"episode {i}: return {played[-1].total:g}, {played[-1].steps:,} steps")
            sys.stdout.flush()
    totals = [episode.total for episode in played]
    print(f"mean return {sum(totals) / len(totals):g} of {len(totals)} episodes")
    if out is not None:
        try:
            pictures.save([episode.pictures for episode in played], out)
        except OSError as error:
            raise UserError(
                f"--out={out} cannot be written: {error.strerror or error}. {remedy(error)}"
            ) from error
        print(f"Episodes: {out}")


def _episode(frames: Iterable["Frame"], most: int) -> Played:
    """Plays an episode to its end.

    Args:
      frames: of the episode.
      most: pictures to keep; 0 for none.
    """
    from missing_bits.pictures import episodes as pictures

    totals = []

    def seen() -> Iterator["Frame"]:
        for frame in frames:
            totals.append(frame.total)
            yield frame

    kept = pictures.thinned(seen(), most) if most else []
    if not most:
        for _ in seen():
            pass
    return Played(totals[-1], len(totals) - 1, kept)


@dataclass(frozen=True)
class _Told:
    """What a card tells of how its policy was judged."""

    env: str
    env_kwargs: dict = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    cut_at: int | None = None
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.cut_at is None or self.cut_at >= 1,
            f"its episodes are cut at {self.cut_at} steps; it must be at least 1",
        )
        require(
            0 <= self.epsilon <= 1,
            f"its epsilon is {self.epsilon}; it must lie between 0 and 1",
        )


def environment(policy: "Loaded", config: Config) -> "Envs":
    """The environment to play in: that of the run, or another one that is asked for.

    Raises:
      UserError: the card tells of none, or names code that the command line does not name.
    """
    from missing_bits import handover
    from missing_bits.envs.environments import Envs

    protocol = policy.card.get("protocol", {})
    names = [field.name for field in fields(_Told)]
    written = {name: protocol[name] for name in names if name in protocol}
    try:
        told = handover.make(_Told, {"env": config.env, **written}, "protocol")
    except handover.Unsound as error:
        raise UserError(f"--from={config.run}: {error}.") from error
    require(
        told.env != "",
        f"--from={config.run} does not tell its environment. Name it: --env=CartPole-v1.",
    )
    is_other = config.env not in ("", told.env)
    kwargs = json.dumps(told.env_kwargs) if told.env_kwargs and not is_other else ""
    envs = Envs(
        env=config.env or told.env,
        env_kwargs=config.env_kwargs or kwargs,
        wrappers=config.wrappers or (() if is_other else told.wrappers),
        # Another environment may have no end of its own, and the protocol tells of the cut.
        eval_steps=told.cut_at or Envs().eval_steps,
        eval_epsilon=told.epsilon,
    )
    for code in envs.modules():
        option = "env" if code == envs.env else "wrappers"
        require(
            code in (config.env, *config.wrappers),
            f"--{option}={code} is code, and it is a file that names it: what a file names is not "
            "imported. Give the option as well, if you trust it.",
        )
    options.check(envs)
    return envs


def _check_spaces(policy: "Loaded", env_id: str, envs: "Environments") -> None:
    """Raises `UserError` unless an environment's spaces are those of the policy."""
    mine = policy.policy
    has = envs.observation_space
    require(
        has.shape == mine.observation_shape
        and has.dtype.name == mine.observation_dtype
        and envs.num_actions == mine.num_actions,
        f"--env={env_id} has observations {has.shape} {has.dtype} and {envs.num_actions} actions; "
        f"this policy plays with {mine.observation_shape} {mine.observation_dtype} and "
        f"{mine.num_actions}. Name an environment with the same spaces.",
    )


def _drawing(modes: set[str], env_id: str, out: Path | None) -> "Drawing":
    """What is seen of episodes: a file is asked for, or a window where that is possible."""
    if out is not None:
        require(
            "rgb_array" in modes, f"--out={out}: {env_id} draws no frames; leave the option out."
        )
        return "rgb_array"
    if not modes & {"human", "rgb_array"}:
        say(f"note: {env_id} draws nothing.")
        return ""
    if not _has_display():
        say("note: there is no display, so no window is opened; --out=FILE.gif draws into a file.")
        return ""
    return "human"


def _has_display() -> bool:
    """Whether windows can be opened, as far as the environment's variables say."""
    own = sys.platform in ("darwin", "win32")
    return own or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _whose(card: Mapping[str, Any]) -> str:
    """Where a policy comes from: "dqn on CartPole-v1, seed 0, step 50000, return_mean 498.6"."""
    from missing_bits.results import protocols, table

    parts = [str(card.get("exp", "a policy"))]
    protocol = card.get("protocol", {})
    if "env" in protocol:
        parts[0] += f" on {protocol['env']}"
    parts += [f"{name} {card[name]}" for name in ("seed", "step") if name in card]
    scores = card.get("scores", {})
    name = "eval/return_mean"
    if name in scores:
        parts.append(f"{table.metric(name)} {protocols.value(name, scores[name])}")
    return ", ".join(canvas.short(part, 100) for part in parts)
