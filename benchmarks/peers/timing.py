"""What the peers in torch share: how updates are timed, and where and how precisely they run."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

_WARM_UP = 3  # updates before the clock starts
_TURN = 0.2  # seconds, at least, between two waits for an accelerator


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all peers have."""
    parser.add_argument(
        "--seconds", type=float, required=True, help="how long to measure, after three updates"
    )
    parser.add_argument("--device", default="cpu", help="torch's name of it: cpu or cuda")
    parser.add_argument(
        "--bfloat16", action="store_true", help="compute the encoder in bfloat16, by autocast"
    )


def prepare(device: str) -> None:
    """Seeds torch, and lets products of float32 round as JAX's default on an accelerator does."""
    torch.manual_seed(0)
    if device != "cpu":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True


def encoding(device: str, bfloat16: bool) -> torch.autocast:
    """The context in which an encoder runs; what is beside it stays float32."""
    return torch.autocast(device, torch.bfloat16, enabled=bfloat16)


def adamw(parameters: list, device: str) -> torch.optim.Optimizer:
    """AdamW; on an accelerator in its fused form."""
    return torch.optim.AdamW(parameters, lr=1e-3, fused=device != "cpu")


def measure(update: Callable[[], torch.Tensor], seconds: float, device: str) -> dict:
    """Times updates in turns, after a few that are not counted.

    Args:
      update: makes one, and returns its loss.
      seconds: how long to measure.
      device: where it runs. On a CPU each update is a turn.

    Returns:
      What every peer prints: `updates_per_second` is the median over turns.
    """

    def turn(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            loss = update()
        if device != "cpu":
            torch.cuda.synchronize()
        losses.append(loss)
        return (time.perf_counter() - start) / count

    losses: list[torch.Tensor] = []
    turn(_WARM_UP - 1)
    one = turn(1)
    count = 1 if device == "cpu" else max(1, round(_TURN / one))
    turns: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not turns:
        turns.append(turn(count))
    return {
        "updates_per_second": 1 / statistics.median(turns),
        "steps": count * len(turns),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "loss": float(losses[-1]),
    }
