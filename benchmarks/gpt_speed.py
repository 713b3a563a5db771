"""Measure GPT's training step against torch, and sampling with its cache against without.

    python benchmarks/gpt_speed.py --out=gpt_speed.json
    python benchmarks/gpt_speed.py --nanogpt=FOLDER --text=shakespeare.txt   # and whole processes

Steps: nanoGPT's recipe for a CPU (4 layers, 4 heads, width 128, context 64, batch 12, float32),
against an equal module of `peers/gpt.py`. Sampling: the same network with a context of 256, from a
prompt of one token until it is full. Whole processes: two thousand updates on tiny shakespeare,
from the command to its end, evaluation and all, against a checkout of nanoGPT that is given, in the
peer's environment. The cases take turns, each in a process of its own. See README.md beside this
file.
"""

import argparse
import functools
import json
import os
import pickle
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers_env import ROOT, call, machine_facts, peers_python, summary, versions

HERE = Path(__file__).resolve().parent
SIZE = {"layers": 4, "heads": 4, "width": 128}
LENGTH = 64  # tokens in a row
ROWS = 12  # in a batch
LETTERS = 65  # different ones, as in tiny shakespeare
VOCABULARY = LETTERS + 4  # ours has four special tokens
CONTEXT = 256  # of sampling
UPDATES = 2_000  # of whole processes
OURS = "ours"


def row_flops() -> int:
    """Count the floating-point operations of one row in an update: matrix products alone.

    Four products of the width and two of four times the width in each block; scores and mixtures of
    attention; logits. A backward pass costs two forward passes.
    """
    blocks = SIZE["layers"] * LENGTH * 12 * SIZE["width"] ** 2
    attention = SIZE["layers"] * 2 * LENGTH**2 * SIZE["width"]
    head = LENGTH * SIZE["width"] * VOCABULARY
    return 3 * 2 * (blocks + attention + head)


def run_updates(seconds: float, bfloat16: bool) -> dict:
    """Time the suite's own updates in this process, ten in a call, on batches that lie ready."""
    import jax
    from suite_updates import Updates

    from missing_bits import options
    from missing_bits.loop.process import prepare_cpu
    from missing_bits.ssl import gpt

    prepare_cpu()  # as the loop does
    letters = np.array([chr(ord("0") + i) for i in range(LETTERS)])
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "random.txt"
        text.write_text("".join(np.random.default_rng(0).choice(letters, 50_000)))
        config = options.make(
            gpt.Config,
            data=f"txt:{text}",
            split="end",
            length=LENGTH,
            batch_size=ROWS,
            bfloat16=bfloat16,
            **SIZE,
        )
        updates = Updates(gpt.GPT, config, per_call=10)
    updates.close()
    updates.make(10)
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        rates.append(10 * ROWS * LENGTH / updates.make(10))
    learned = updates.family.first.learned(updates.running.state)
    return {
        "per_second": statistics.median(rates),
        "steps": updates.done,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(learned)),
        "loss": updates.metrics()["train/loss"],
    }


def run_sampling(cached: bool, seconds: float) -> dict:
    """Time sampling in this process: tokens per second of one text, until its context is full.

    Args:
      cached: whether by what is remembered; else the whole window is read for each token, padded
        to the next quarter of the context: there is a program for each of these lengths.
      seconds: how long to measure.
    """
    import jax
    import jax.numpy as jnp

    from missing_bits.encoders.causal import CausalEncoder
    from missing_bits.eval import sampling
    from missing_bits.eval.sampling import Sampling
    from missing_bits.eval.writer import Writer, next_logits
    from missing_bits.nets.sequences.stack import Settings

    encoder = CausalEncoder(Settings("transformer", **SIZE), VOCABULARY, CONTEXT, "")
    variables = jax.jit(encoder.init)(jax.random.key(0))
    prompt = np.array([5], np.int32)
    how = Sampling(np.float32(0.8), np.int32(0), np.float32(1.0))
    count = CONTEXT - 1
    writer = Writer(encoder, variables, 1)

    @functools.partial(jax.jit, static_argnames="size")
    def quarter(tokens: jax.Array, key: jax.Array, size: int) -> jax.Array:
        """Writes the tokens up to a window of that size, of which a quarter is missing."""

        def body(i: jax.Array, tokens: jax.Array) -> jax.Array:
            y = encoder.tokens(variables, tokens[:, :size])[:, i]
            drawn = sampling.draw(
                jax.random.fold_in(key, i), next_logits(encoder, variables, y), how
            )
            return tokens.at[:, i + 1].set(drawn)

        return jax.lax.fori_loop(max(0, size - CONTEXT // 4 - 1), size - 1, body, tokens)

    def write(number: int) -> None:
        key = jax.random.key(number)
        if cached:
            assert sum(map(len, writer.write(prompt, count, how, key))) == count
            return
        tokens = jnp.full((1, CONTEXT), prompt[0])
        for size in range(CONTEXT // 4, CONTEXT + 1, CONTEXT // 4):
            tokens = quarter(tokens, key, size)
        jax.block_until_ready(tokens)

    write(0)  # compiles
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        write(len(rates))
        rates.append(count / (time.perf_counter() - start))
    return {"per_second": statistics.median(rates), "samples": len(rates)}


# Whole processes.


def run_suite(text: Path, bfloat16: bool) -> dict:
    """Time `run.py --exp=gpt` from its start to its end.

    Windows of held-out text follow each other without overlap: the loss is then the mean of what
    nanoGPT draws at random.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "run.py", "--exp=gpt", f"--data=txt:{text}"]
        command += ["--split=end", f"--stride={LENGTH}", f"--updates={UPDATES}"]
        command += [f"--run.dir={folder}/run"]
        command += ["--bfloat16"] if bfloat16 else []
        start = time.perf_counter()
        call(command)
        seconds = time.perf_counter() - start
        result = json.loads((Path(folder) / "run" / "result.json").read_text())
    return {"seconds": seconds, "loss": result["eval/loss"]}


def run_nanogpt(checkout: Path, python: Path, text: Path) -> dict:
    """Time nanoGPT's `train.py` with the options that its README has for a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "nanogpt"
        shutil.copytree(checkout, home, ignore=shutil.ignore_patterns(".git"))
        write_data(text, home / "data" / "shakespeare_char")
        options = {
            "device": "cpu",
            "compile": False,
            "eval_iters": 20,
            "log_interval": 1,
            "block_size": LENGTH,
            "batch_size": ROWS,
            "n_layer": SIZE["layers"],
            "n_head": SIZE["heads"],
            "n_embd": SIZE["width"],
            "max_iters": UPDATES,
            "lr_decay_iters": UPDATES,
            "dropout": 0.0,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        start = time.perf_counter()
        said = call([python, "train.py", "config/train_shakespeare_char.py", *flags], folder=home)
        seconds = time.perf_counter() - start
        losses = re.findall(rf"step {UPDATES}: train loss [\d.]+, val loss ([\d.]+)", said)
    return {"seconds": seconds, "loss": float(losses[-1])}


def write_data(text: Path, folder: Path) -> None:
    """Write a text as nanoGPT's own preparation does, which would download it."""
    letters = text.read_text()
    vocabulary = sorted(set(letters))
    numbers = {letter: number for number, letter in enumerate(vocabulary)}
    ids = np.array([numbers[letter] for letter in letters], np.uint16)
    end = int(0.9 * len(ids))
    ids[:end].tofile(folder / "train.bin")
    ids[end:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(vocabulary), "itos": dict(enumerate(vocabulary)), "stoi": numbers}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case",
        choices=["updates", "cached", "uncached"],
        help="run this case here; print its result",
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="ours in bfloat16; the peer's stays in float32"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each case is measured"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="turns of each case; the median counts"
    )
    parser.add_argument(
        "--peers-python", help="a Python that has torch; without, it is put into .peers/torch"
    )
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT, for whole processes")
    parser.add_argument("--text", type=Path, help="tiny shakespeare, for whole processes")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    args = parser.parse_args()
    if args.case == "updates":
        print(json.dumps(run_updates(args.seconds, args.bfloat16)))
        return
    if args.case:
        print(json.dumps(run_sampling(args.case == "cached", args.seconds)))
        return
    if (args.nanogpt is None) != (args.text is None):
        parser.error("--nanogpt and --text belong together")

    machine = machine_facts() | {"ours": versions(sys.executable, ["jax", "numpy"])}
    timing = f"--seconds={args.seconds}"
    ours = [sys.executable, __file__, timing]
    ours += ["--bfloat16"] if args.bfloat16 else []
    cases = {OURS: [*ours, "--case=updates"]}
    peers = None
    if not args.no_peer:
        peers = args.peers_python or peers_python("torch")
        machine["peer"] = versions(peers, ["torch"])
        peer = [peers, HERE / "peers" / "gpt.py", timing]
        peer += [f"--{name}={value}" for name, value in SIZE.items()]
        peer += [f"--batch-size={ROWS}", f"--length={LENGTH}", f"--vocabulary={VOCABULARY}"]
        cases["torch"] = peer
    for name in ("cached", "uncached"):
        cases[name] = [*ours, f"--case={name}"]
    ceiling = [sys.executable, HERE / "matmul.py", f"--cores={os.cpu_count()}"]

    runs: dict[str, list[dict]] = {name: [] for name in cases}
    whole: dict[str, list[dict]] = {}
    ceilings: list[float] = []
    for repeat in range(args.repeats):
        for name, command in cases.items():
            runs[name].append(json.loads(call(command).splitlines()[-1]))
            turn = f"{repeat + 1}/{args.repeats}"
            print(f"{turn} {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
        ceilings.append(json.loads(call(ceiling))["gflops"])
        if args.nanogpt and peers:
            whole.setdefault(OURS, []).append(run_suite(args.text.resolve(), args.bfloat16))
            found = run_nanogpt(args.nanogpt, peers, args.text)
            whole.setdefault("nanoGPT", []).append(found)
            print(f"{turn} whole processes: {whole}", file=sys.stderr, flush=True)
    machine["load_average_after"] = os.getloadavg()[0]

    top = statistics.median(ceilings)
    rates = {name: summary([run["per_second"] for run in done]) for name, done in runs.items()}
    print("\n".join(f"- {name}: {fact}" for name, fact in machine.items()))
    print(f"- matrix product: {top:.0f} GFLOP/s")
    print("\n| training step | tokens/s | min | max | to torch | GFLOP/s | of the product |")
    print("|---" * 7 + "|")
    for name in (OURS, "torch"):
        if name in rates:
            rate = rates[name]
            gflops = rate["median"] / LENGTH * row_flops() / 1e9
            cells = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
            to = f"{rate['median'] / rates['torch']['median']:.2f}" if "torch" in rates else ""
            cells += [to, f"{gflops:.0f}", f"{100 * gflops / top:.0f} %"]
            print(f"| {name} | {' | '.join(cells)} |")
    print("\n| sampling | tokens/s | min | max | to without |\n|---|---|---|---|---|")
    for name in ("cached", "uncached"):
        rate = rates[name]
        cells = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
        ratio = rate["median"] / rates["uncached"]["median"]
        print(f"| {name} | {' | '.join(cells)} | {ratio:.1f} |")
    if whole:
        print(
            "\n| whole process | seconds | min | max | of nanoGPT's | loss |\n" + "|---" * 6 + "|"
        )
        base = statistics.median(run["seconds"] for run in whole["nanoGPT"])
        for name, done in whole.items():
            seconds = summary([run["seconds"] for run in done])
            cells = [f"{seconds[which]:.1f}" for which in ("median", "min", "max")]
            loss = statistics.median(run["loss"] for run in done)
            cells += [f"{seconds['median'] / base:.2f}", f"{loss:.3f}"]
            print(f"| {name} | {' | '.join(cells)} |")
    if args.out:
        report = {"machine": machine, "runs": runs, "whole": whole, "matrix_product": ceilings}
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
