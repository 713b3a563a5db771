"""Measure methods, and statistics against the CPU's, on whatever accelerator JAX finds.

    python benchmarks/accelerator.py --out=accelerator.json   # at most five minutes
    python benchmarks/accelerator.py --quick                  # tiny, on a CPU too: does it run?

Each row of the table is a method's own update within the loop's compiled program, beside an equal
step in torch where torch is installed and sees the device. A new method adds a function that says
what to measure, and a row to ROWS. See README.md beside this file.
"""

import argparse
import contextlib
import functools
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Memory is taken when it is needed: torch gets some too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from dqn_speed import JAX_SETTINGS
from suite_updates import Updates

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.eval import collapse, knn, linear_probe
from missing_bits.generative import gan, vae
from missing_bits.nets import layers
from missing_bits.optimizers import Optimizer
from missing_bits.ssl import barlow_twins, bert, gpt, mae
from missing_bits.supervised import graphs

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4  # of statistics, as a share of their largest value
PEER_NEEDS = 15  # seconds: with less time left no peer is started

# Largest rates of dense products in bfloat16, in FLOP/s, as vendors state them; of one device as
# JAX counts devices.
PEAKS = {
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


class Subject(NamedTuple):
    """What a row measures."""

    method: type
    config: Any
    examples: int
    """Of all seeds together, in one update."""
    peer: list[str]
    """A script of `peers/` and its options, but for time and device."""
    seeds: int = 1
    warm_up: int = 3
    """Updates before the clock starts."""
    loss: str = "train/loss"
    """A metric that must be a number."""


class Row(NamedTuple):
    """A row of the table."""

    name: str
    unit: str
    subject: Callable[[bool, Path], Subject]
    """Of (whether sizes are tiny, a folder for files)."""
    needs: int
    """Seconds on a GPU of 2023, most of them to compile: with less time left it is skipped."""


# Rows.


def dqn_on_device(quick: bool, folder: Path, seeds: int, few: int) -> Subject:
    """DQN whose environments and replay live on the device, with the settings of dqn_speed.py.

    Args:
      quick: whether sizes are tiny.
      folder: not used.
      seeds: trained at once.
      few: seeds instead, if sizes are tiny.
    """
    envs = 10
    config = options.make(
        dqn.Config,
        env=JAX_SETTINGS["env"],
        num_envs=envs,
        env_steps=100_000_000,  # the budget only shapes the schedule
        learning_rate=JAX_SETTINGS["learning_rate"],
        batch_size=JAX_SETTINGS["batch_size"],
        replay_capacity=JAX_SETTINGS["replay_capacity"],
        learning_starts=1_000,
        train_period=JAX_SETTINGS["train_period"],
        target_period=JAX_SETTINGS["target_period"],
        target_tau=1.0,
        discount=JAX_SETTINGS["discount"],
        epsilon_final=JAX_SETTINGS["epsilon_final"],
        epsilon_decay_steps=JAX_SETTINGS["epsilon_decay_steps"],
        hidden_sizes=tuple(JAX_SETTINGS["hidden_sizes"]),
        double=False,
        huber=True,
        n_step=1,
    )
    if quick:
        seeds = few
        config = options.make(dqn.Config, **dqn.TINY | {"env": JAX_SETTINGS["env"]})
    peer = ["vector_dqn.py", f"--seeds={seeds}", f"--envs={envs}"]
    peer.append(f"--settings={json.dumps(JAX_SETTINGS)}")
    warm_up = 1 + config.learning_starts // config.train_period  # all others learn
    return Subject(dqn.DQN, config, seeds * config.train_period, peer, seeds, warm_up)


def barlow(
    quick: bool, folder: Path, network: str, side: int, batch_size: int, width: int
) -> Subject:
    """Barlow Twins in bfloat16 on random images, two views drawn of each."""
    if quick:
        config = options.make(barlow_twins.Config, **barlow_twins.TINY)
    else:
        config = options.make(
            barlow_twins.Config,
            data=random_images(folder, side, batch_size),
            network=network,
            bfloat16=True,
            batch_size=batch_size,
            projector_sizes=(width,) * 3,
        )
    peer = ["barlow.py", f"--network={network}", f"--side={side}", f"--batch-size={batch_size}"]
    peer += [f"--projector={width}", "--channels-last", "--bfloat16"]
    return Subject(barlow_twins.BarlowTwins, config, config.batch_size, peer)


def masked_images(quick: bool, folder: Path) -> Subject:
    """A masked autoencoder of 224x224, the preset for ImageNet but for its batch; in bfloat16."""
    batch_size = 128
    side = 224
    if quick:
        config = options.make(mae.Config, **mae.TINY)
    else:
        preset = dict(mae.PRESETS["imagenet"])
        data = random_images(folder, side, batch_size)
        sizes = {"data": data, "batch_size": batch_size, "bfloat16": True}
        config = options.make(mae.Config, **preset | sizes)
    peer = ["mae.py", "--width=384", "--layers=12", f"--batch-size={batch_size}"]
    peer += [f"--side={side}", "--patch=16", "--mask-ratio=0.75"]
    peer += ["--decoder-width=512", "--decoder-layers=8", "--decoder-heads=16", "--bfloat16"]
    return Subject(mae.MAE, config, config.batch_size, peer)


def masked_text(quick: bool, folder: Path) -> Subject:
    """BERT's "medium" size with AdamW, in bfloat16."""
    batch_size = 256
    if quick:
        config = options.make(bert.Config, **bert.TINY)
    else:
        config = options.make(
            bert.Config,
            network="bert_medium",
            bfloat16=True,
            batch_size=batch_size,
            dropout=0.1,
            mask_share=0.15,
            optimizer=Optimizer(),  # AdamW
        )
    peer = ["transformer.py", "--width=512", "--layers=8", f"--batch-size={batch_size}"]
    peer += ["--length=128", "--vocabulary=4096", "--places=19", "--dropout=0.1"]
    peer.append("--bfloat16")
    return Subject(bert.BERT, config, config.batch_size, peer)


def next_tokens(quick: bool, folder: Path) -> Subject:
    """GPT-2's smallest size on random letters, in bfloat16."""
    batch_size = 8
    letters = 256
    size = gpt.SIZES["gpt2"]
    text = folder / "letters.txt"
    draw = np.random.default_rng(0).integers
    text.write_text("".join(map(chr, draw(0x4E00, 0x4E00 + letters, 20_000))))
    sizes = {"size": "gpt2", "batch_size": batch_size, "bfloat16": True}
    settings = gpt.TINY if quick else sizes
    config = options.make(gpt.Config, **settings | {"data": f"txt:{text}", "split": "end"})
    peer = ["gpt.py", f"--batch-size={batch_size}", f"--vocabulary={letters + 4}", "--bfloat16"]
    peer += [f"--{name}={number}" for name, number in size.items()]
    return Subject(gpt.GPT, config, config.batch_size, peer)


def graph_nodes(quick: bool, folder: Path) -> Subject:
    """A GCN on a block model of 5,000 nodes, each with a feature of its own; the peer's have 64."""
    nodes = 5_000
    degree = 10
    sizes = {"made_nodes": nodes, "made_degree": float(degree), "width": 64}
    config = options.make(graphs.Config, **graphs.TINY if quick else sizes)
    peer = ["gcn.py", f"--nodes={nodes}", f"--edges={nodes * degree}"]
    peer += ["--features=64", "--width=64", "--classes=2"]
    return Subject(graphs.Graphs, config, 1, peer)


def bits_of_images(quick: bool, folder: Path) -> Subject:
    """A variational autoencoder on random bits of 32x32, its encoder in bfloat16."""
    batch_size = 1024
    side = 32
    latent = 64
    width = 64
    if quick:
        config = options.make(vae.Config, **vae.TINY)
    else:
        path = folder / "bits.npz"
        bits = np.random.default_rng(0).integers(0, 2, (batch_size, side, side, 3), np.uint8)
        np.savez(path, images=255 * bits)
        config = options.make(
            vae.Config,
            data=f"npz:{path}",
            output="bernoulli",
            batch_size=batch_size,
            latent=latent,
            decoder_width=width,
            bfloat16=True,
        )
    peer = ["vae.py", f"--batch-size={batch_size}", f"--side={side}", "--channels=3"]
    peer += [f"--latent={latent}", f"--width={width}", "--channels-last", "--bfloat16"]
    return Subject(vae.VAE, config, config.batch_size, peer)


def game_of_images(quick: bool, folder: Path) -> Subject:
    """A generative adversarial network with R1 at every update, on random images of 32x32."""
    batch_size = 512
    side = 32
    latent = 128
    width = 64
    if quick:
        config = options.make(gan.Config, **gan.TINY)
    else:
        config = options.make(
            gan.Config,
            data=random_images(folder, side, batch_size),
            batch_size=batch_size,
            latent=latent,
            width=width,
            discriminator_width=width,
        )
    peer = ["gan.py", f"--batch-size={batch_size}", f"--side={side}", "--channels=3", "--r1"]
    peer += [f"--latent={latent}", f"--width={width}", "--channels-last"]
    loss = "train/discriminator_loss"
    return Subject(gan.GAN, config, config.batch_size, peer, loss=loss)


def random_images(folder: Path, side: int, count: int) -> str:
    """The option `--data` for a file of random images in color."""
    path = folder / f"{side}.npz"
    draw = np.random.default_rng(0).integers
    images = draw(0, 256, (count, side, side, 3), np.uint8)
    np.savez(path, images=images, test_images=images[:16])
    return f"npz:{path}"


# By importance: what the time does not suffice for is at the end.
ROWS = (
    Row("DQN, 1 seed", "env steps", functools.partial(dqn_on_device, seeds=1, few=1), 25),
    Row(
        "DQN, 1,024 seeds",
        "env steps",
        functools.partial(dqn_on_device, seeds=1024, few=2),
        30,
    ),
    Row(
        "Barlow Twins, ResNet-18, 32x32",
        "pairs",
        functools.partial(barlow, network="resnet18", side=32, batch_size=512, width=2048),
        40,
    ),
    Row("MAE, vit_small, 224x224", "images", masked_images, 45),
    Row("BERT, bert_medium, 128 tokens", "rows", masked_text, 35),
    Row("GPT, gpt2, 1,024 tokens", "rows", next_tokens, 45),
    Row("VAE, 32x32", "images", bits_of_images, 30),
    Row("GAN with R1, 32x32", "images", game_of_images, 40),
    Row(
        "Barlow Twins, ResNet-50, 224x224",
        "pairs",
        functools.partial(barlow, network="resnet50", side=224, batch_size=64, width=8192),
        75,
    ),
    Row("DQN, 64 seeds", "env steps", functools.partial(dqn_on_device, seeds=64, few=2), 30),
    Row("GCN, 5,000 nodes", "updates", graph_nodes, 30),
)


# Statistics.


class Computation(NamedTuple):
    """A function that both kinds of device shall evaluate to the same."""

    function: Callable[..., Any]
    """Of arrays, to a pytree of arrays."""
    inputs: tuple[np.ndarray, ...]


def cross_correlation(rng: np.random.Generator) -> Computation:
    """Of Barlow Twins, with so few images that rounded products show."""
    z_a = rng.normal(size=(32, 512))
    z_b = z_a + rng.normal(size=z_a.shape)
    return Computation(jax.jit(barlow_twins.correlation), (z_a, z_b))


def similarities(rng: np.random.Generator) -> Computation:
    """Cosines between features and their nearest neighbors."""

    def nearest(train: jax.Array, queries: jax.Array) -> jax.Array:
        return knn._nearest(train, queries, 20).similarities

    return Computation(nearest, (rng.normal(size=(512, 64)), rng.normal(size=(128, 64))))


def probe_products(rng: np.random.Generator) -> Computation:
    """Features turned to their principal axes, and logits of them, as the linear probe does it."""
    features = rng.normal(size=(256, 64)) @ rng.normal(size=(64, 64))
    with jax.default_device(jax.devices("cpu")[0]):
        axes = linear_probe._principal_axes(jnp.asarray(features, jnp.float32), True)
    kind = type(axes)
    turned = lambda x, *to: linear_probe._turn(x, kind(*to))  # noqa: E731
    return Computation(turned, (features, *map(np.asarray, axes)))


def probe_fit(rng: np.random.Generator) -> Computation:
    """Weights of the linear probe under a strong regularization, which L-BFGS finds."""
    features = rng.normal(size=(256, 16))
    labels = rng.integers(0, 4, 256).astype(np.int32)
    weights = np.full(256, 1 / 256)
    start = linear_probe.Affine(np.zeros((16, 4)), np.zeros(4))

    def fitted(
        features: jax.Array, labels: jax.Array, weights: jax.Array, *start: jax.Array
    ) -> Any:
        return linear_probe.minimize(
            features, labels, weights, linear_probe.Affine(*start), jnp.float32(1.0)
        )

    return Computation(fitted, (features, labels, weights, *start))


def deviation(rng: np.random.Generator) -> Computation:
    """How features spread: what falls when an encoder collapses."""
    features = 1 + 0.1 * rng.normal(size=(256, 128))  # far from the origin, close together
    return Computation(collapse.feature_deviation, (features,))


def batch_statistics(rng: np.random.Generator) -> Computation:
    """Mean and variance that batch normalization takes of a batch in bfloat16, in float32."""
    norm = hk.transform_with_state(lambda x: layers.BatchNorm()(x, True))
    x = 10 + rng.normal(size=(64, 8, 8, 32))  # a mean that hides the variance from E[x^2] - E[x]^2

    @jax.jit
    def statistics_of(x: jax.Array) -> Any:
        x = x.astype(jnp.bfloat16)
        params, state = norm.init(None, x)
        return norm.apply(params, state, None, x)[1]

    return Computation(statistics_of, (x,))


STATISTICS = {
    "cross-correlation of Barlow Twins": cross_correlation,
    "similarities of neighbors (kNN)": similarities,
    "products of the linear probe": probe_products,
    "weights of the linear probe": probe_fit,
    "deviation of features": deviation,
    "batch statistics in float32": batch_statistics,
}


def difference(ours: Any, reference: Any) -> float:
    """The largest difference of two pytrees of arrays, as a share of each leaf's largest value."""

    def of_leaf(a: np.ndarray, b: np.ndarray) -> float:
        a = np.asarray(a, np.float64)
        b = np.asarray(b, np.float64)
        if not np.isfinite(a).all():
            return math.inf
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(of_leaf, ours, reference)))


def compare(computation: Computation, device: jax.Device) -> float:
    """The difference between a device and the CPU."""
    results = []
    for place in (device, jax.devices("cpu")[0]):
        with jax.default_device(place):
            inputs = [
                jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else x.dtype)
                for x in computation.inputs
            ]
            results.append(jax.device_get(computation.function(*inputs)))
    return difference(*results)


# Measurement.


class Clock:
    """The budget of the benchmark, from the moment it is made.

    Args:
      seconds: the budget.
    """

    def __init__(self, seconds: float) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._seconds - self.used

    @property
    def used(self) -> float:
        """Seconds gone."""
        return time.perf_counter() - self._start


def measure(subject: Subject, seconds: float, device: jax.Device) -> dict[str, Any]:
    """Times the suite's own updates.

    Args:
      subject: what to time.
      seconds: how long, in at least three turns.
      device: where it runs.

    Returns:
      `per_second` in examples of all seeds, the median over turns; `compile_seconds`; `memory` and
      `peak_memory` in bytes (None where the device does not tell), the latter of all rows so far;
      `flops` of an update, `flops_per_second` and their share `of_peak` (None where unknown); the
      mean `loss`.
    """
    updates = Updates(subject.method, subject.config, seeds=subject.seeds, on_device=True)
    updates.close()  # one batch serves them all
    updates.make(subject.warm_up)
    each = updates.make(subject.warm_up) / subject.warm_up
    count = max(1, round(seconds / 5 / each))
    turns: list[float] = []
    while sum(turns) < seconds or len(turns) < 3:
        turns.append(updates.make(count))
    per_update = statistics.median(turns) / count
    memory = device.memory_stats() or {}
    flops = counted(updates)
    achieved = None if flops is None else flops / per_update
    peak = PEAKS.get(device.device_kind)
    loss = updates.metrics()[subject.loss]
    if not math.isfinite(loss):
        raise FloatingPointError("the loss is not a number")
    return {
        "per_second": subject.examples / per_update,
        "compile_seconds": updates.compile_seconds,
        "memory": memory.get("bytes_in_use"),
        "peak_memory": memory.get("peak_bytes_in_use"),
        "flops": flops,
        "flops_per_second": achieved,
        "of_peak": achieved / peak if achieved and peak else None,
        "loss": loss,
        "seeds": subject.seeds,
        "updates": updates.done,
    }


def counted(updates: Updates) -> float | None:
    """The floating-point operations of an update; None, and a word why, where XLA cannot tell."""
    try:
        return updates.flops()
    except Exception as error:  # the rate stands without it
        print(f"no count of operations: {_first_line(str(error))}", file=sys.stderr)
        return None


def measure_peer(subject: Subject, python: str, seconds: float, left: float) -> dict[str, Any]:
    """Times the equal step in torch, in a process of its own.

    Args:
      subject: whose peer.
      python: an interpreter that may have torch.
      seconds: how long to measure.
      left: seconds after which it is given up.

    Returns:
      `peer_per_second` in the subject's examples, or why there is none: `no_peer`.
    """
    devices = {"gpu": "cuda", "cpu": "cpu"}
    if jax.default_backend() not in devices:
        return {"no_peer": f"torch is not asked for on a {jax.default_backend()}"}
    script, *rest = subject.peer
    command = [python, HERE / "peers" / script, *rest, f"--seconds={seconds}"]
    command.append(f"--device={devices[jax.default_backend()]}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return {"no_peer": "torch took longer than the time that was left"}
    if done.returncode != 0:
        return {"no_peer": _last_line(done.stderr)}
    found = json.loads(done.stdout.splitlines()[-1])
    rate = found["updates_per_second"] * subject.examples
    return {"peer_per_second": rate, "torch": found["torch"], "peer_loss": found["loss"]}


def run_row(row: Row, args: argparse.Namespace, clock: Clock, folder: Path) -> dict[str, Any]:
    """What there is to say of a row: figures, or why there are none."""
    told: dict[str, Any] = {"row": row.name, "unit": row.unit}
    if not args.quick and clock.left < row.needs:
        return told | {"skipped": f"needs {row.needs} s of which {clock.left:.0f} s were left"}
    seconds = 0.1 if args.quick else args.turn_seconds
    try:
        subject = row.subject(args.quick, folder)
        told |= measure(subject, seconds, jax.local_devices()[0])
    except Exception as error:  # such as too little memory: the other rows go on
        return told | {"failed": f"{type(error).__name__}: {_first_line(str(error))}"}
    finally:
        jax.clear_caches()
        gc.collect()
    if args.quick:  # the peers have the sizes of an accelerator alone
        return told
    if clock.left < PEER_NEEDS:
        return told | {"no_peer": "no time was left"}
    python = args.peers_python or sys.executable
    return told | measure_peer(subject, python, seconds, clock.left)


def run_statistics(device: jax.Device) -> list[dict[str, Any]]:
    """The differences of all statistics, or why there is none."""
    told = []
    for name, make in STATISTICS.items():
        try:
            found = compare(make(np.random.default_rng(0)), device)
            told.append({"statistic": name, "difference": found, "agrees": found <= TOLERANCE})
        except Exception as error:  # such as a CPU that JAX was told not to use
            reason = f"{type(error).__name__}: {_first_line(str(error))}"
            told.append({"statistic": name, "failed": reason})
    return told


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"


# Output.


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of rows."""
    heads = ["row", "per second", "torch", "ratio", "memory, GiB", "peak so far, GiB"]
    heads += ["TFLOP/s", "of the peak", "compiled in, s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if "per_second" not in row:
            reason = (
                f"skipped: {row['skipped']}" if "skipped" in row else f"failed: {row['failed']}"
            )
            lines.append(f"| {row['row']} | {reason} |" + " |" * (len(heads) - 2))
            continue
        lines.append(f"| {' | '.join([row['row'], *_cells(row)])} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    """The figures of a row that was measured."""
    rate = row["per_second"]
    peer = row.get("peer_per_second")
    achieved = row["flops_per_second"]
    return [
        f"{_figure(rate)} {row['unit']}",
        "none" if peer is None else _figure(peer),
        "" if peer is None else f"{rate / peer:.2f}",
        _gibibytes(row["memory"]),
        _gibibytes(row["peak_memory"]),
        "unknown" if achieved is None else f"{achieved / 1e12:.3g}",
        "unknown" if row["of_peak"] is None else f"{row['of_peak']:.1%}",
        f"{row['compile_seconds']:.1f}",
    ]


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _gibibytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.2f}"


def statistics_table(told: Sequence[dict[str, Any]]) -> str:
    """The Markdown table of statistics."""
    lines = ["| statistic | largest difference from the CPU's | agrees |", "|---|---|---|"]
    for one in told:
        if "failed" in one:
            lines.append(f"| {one['statistic']} | failed: {one['failed']} | |")
        else:
            agrees = "yes" if one["agrees"] else "NO"
            lines.append(f"| {one['statistic']} | {one['difference']:.1e} | {agrees} |")
    return "\n".join(lines)


def machine(device: jax.Device) -> dict[str, Any]:
    """What a reader needs to know of the machine."""
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": f"1 of {jax.local_device_count()} used",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "peak FLOP/s": PEAKS.get(device.device_kind, "unknown"),
        "compilation cache": jax.config.jax_compilation_cache_dir or "none",
        "load average": os.getloadavg()[0],
    }


@contextlib.contextmanager
def little_compiling(folder: Path) -> Iterator[None]:
    """For programs that run for a moment: little optimization, and equal ones compiled once.

    Args:
      folder: where to keep programs, unless JAX keeps them already.
    """
    settings = {"jax_disable_most_optimizations": True}
    if not jax.config.jax_compilation_cache_dir:
        settings["jax_compilation_cache_dir"] = str(folder)
        settings["jax_persistent_cache_min_compile_time_secs"] = 0.0
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 if a row failed or a statistic disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="all rows at tiny sizes, without torch: does it run?"
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="budget of all together")
    parser.add_argument(
        "--turn-seconds", type=float, default=3.0, help="how long each row is measured"
    )
    parser.add_argument("--peers-python", help="a Python with torch; by default this one")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args(arguments)

    clock = Clock(args.seconds)
    device = jax.local_devices()[0]
    facts = machine(device)
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()), flush=True)
    if device.platform == "cpu" and not args.quick:
        print("\nJAX finds no accelerator: these sizes take long on a CPU (--quick is for one).")
    agreement = run_statistics(device)
    print("", statistics_table(agreement), sep="\n", flush=True)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if args.quick:
            stack.enter_context(little_compiling(folder))
        for row in ROWS:
            rows.append(run_row(row, args, clock, folder))
            print(f"{clock.used:.0f} s: {rows[-1]}", file=sys.stderr, flush=True)
    print("", speed_table(rows), sep="\n")
    reasons = {row["row"]: row["no_peer"] for row in rows if "no_peer" in row}
    if reasons:
        print("", *(f"- {name}: no torch: {reason}" for name, reason in reasons.items()), sep="\n")
    if args.out:
        report = {"machine": facts, "quick": args.quick, "seconds": clock.used}
        report |= {"rows": rows, "statistics": agreement}
        args.out.write_text(json.dumps(report, indent=2) + "\n")
    bad = [one for one in [*rows, *agreement] if "failed" in one or not one.get("agrees", True)]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
