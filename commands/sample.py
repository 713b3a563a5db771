"""Text that a language model writes after a prompt, as it comes; images: see sample_images.py.

python run.py sample --from=RUN --prompt="The "
"""

import codecs
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import tyro

from missing_bits import handover
from missing_bits.commands import command_line, sample_images
from missing_bits.errors import UserError, require, require_between, require_positive
from missing_bits.loop.process import keep_compiled_programs
from missing_bits.notes import say

if TYPE_CHECKING:  # what is imported late, so that --help is quick
    from missing_bits.data.tokenizer import Tokenizer
    from missing_bits.eval.sampling import Sampling
    from missing_bits.eval.writer import Writer

_PLAIN = "\n\t"  # of the control characters, those that a terminal may get


@dataclass(frozen=True)
class Config:
    """Writes on from a prompt, each token drawn from what the model predicts after those before.

    Of a run that generates images it draws these, and has other options: sample --from=RUN --help.
    """

    run: Annotated[str, tyro.conf.arg(name="from")]
    """Folder of a finished run of --exp=gpt, or one of its .safetensors files."""
    prompt: str
    """What to go on from; it need not be the start of a document."""
    length: int = 500
    """Tokens to write. The network forgets the older half of its context whenever a transformer's
    is full; others remember all."""
    temperature: float = 0.8
    """Logits are divided by it before anything is left out; 0 for always the likeliest token."""
    top_k: int = 0
    """Draw only among so many of the likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Draw only among the likeliest tokens that together have this probability, above 0, at most 1.
    """
    num: int = 1
    """How many continuations to write. They are drawn at once: the first is shown as it comes."""
    seed: int = 0
    """Of the draws: the same one gives the same text."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings with which nothing can be drawn."""
        require_positive(self, "length", "num", prefix=prefix)
        require_between(self, 0, float("inf"), "temperature", "top_k", "seed", prefix=prefix)
        require(
            0 < self.top_p <= 1,
            f"--{prefix}top-p is {self.top_p}; it must lie above 0 and be at most 1.",
        )
        require(
            bool(self.prompt),
            f"--{prefix}prompt is empty; give a few words to go on from, or --{prefix}prompt=' '.",
        )


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    if sample_images.are_meant(arguments):
        return sample_images.main(arguments)
    _check_run(arguments)
    config = command_line.of_command("sample", Config, arguments)
    keep_compiled_programs()
    ready = prepare(config)
    sys.stdout.write(config.prompt)
    began = time.perf_counter()
    written = np.zeros((0, config.num), np.int32)
    shown = _Shown(ready.words)
    for tokens in ready.write(config):
        sys.stdout.write(shown.more(tokens[:, 0]))
        sys.stdout.flush()
        written = np.concatenate([written, tokens])
        if (written == _SEP).any(axis=0).all():
            break
    seconds = time.perf_counter() - began
    sys.stdout.write("\n")
    for number in range(1, config.num):
        rest = _Shown(ready.words).more(written[:, number])
        sys.stdout.write(f"--- {number + 1} ---\n{config.prompt}{rest}\n")
    sys.stdout.flush()
    say(
        f"{written.size:,} tokens in {seconds:.2f} s: {written.size / seconds:,.0f} tokens per "
        f"second, after {ready.seconds:.1f} s to get ready."
    )
    return 0


def _check_run(arguments: Sequence[str]) -> None:
    """Raises `UserError` for a run that writes nothing, where a prompt has not been given either.

    To ask for the prompt would not help whose run is of images and has left no generator.
    """
    named, rest = command_line.take(arguments, "--from")
    prompt, rest = command_line.take(rest, "--prompt")
    if named is None or prompt is not None or {"--help", "-h"} & set(rest):
        return
    file = Path(named)
    if file.suffix != ".safetensors":
        file = handover.file_in(file, "encoder", None, _WHOSE)
    if handover.kind(file) == "causal text":
        return
    from missing_bits.encoders import files

    kind = files.kind_of(files.load(file).encoder)  # of a damaged file, loading says so
    raise UserError(
        f"{named} holds an encoder of {kind}, which neither writes nor draws. Name the folder of "
        f"{_WHOSE}."
    )


_WHOSE = "a finished run of --exp=gpt (text), or of vae or gan (images)"
_SEP = 2  # `data.tokenizer.SEP`, whose module takes its time to import


class Ready(NamedTuple):
    """A model that is about to write."""

    writer: "Writer"
    words: "Tokenizer"
    prompt: np.ndarray
    """int32 [n]: the tokens of the prompt, or its last ones."""
    how: "Sampling"
    seconds: float
    """That loading and compiling took."""

    def write(self, config: Config) -> Iterator[np.ndarray]:
        """The next tokens of all continuations, int32 [n, num], again and again."""
        import jax

        return self.writer.write(self.prompt, config.length, self.how, jax.random.key(config.seed))


def prepare(config: Config) -> Ready:
    """Loads a model and compiles it.

    Raises:
      UserError: the run is of another kind, or the prompt holds what it does not know.
    """
    began = time.perf_counter()
    from missing_bits.data.tokenizer import Tokenizer
    from missing_bits.encoders import files
    from missing_bits.encoders.causal import CausalEncoder
    from missing_bits.eval.sampling import Sampling
    from missing_bits.eval.writer import Writer

    loaded = files.load(config.run)
    encoder = loaded.encoder
    require(
        isinstance(encoder, CausalEncoder),
        f"{config.run} holds no model that predicts the next token. Name the folder of a finished "
        "run of --exp=gpt.",
    )
    words = Tokenizer.from_json(encoder.tokenizer)
    require(
        config.top_k <= words.size,
        f"--top-k is {config.top_k}; it must be at most {words.size}, the size of the vocabulary.",
    )
    prompt = _tokens(config.prompt, words)
    writer = Writer(encoder, loaded.variables, config.num)
    if writer.longest is not None and len(prompt) > writer.longest:
        kept = writer.longest // 2 + 1
        say(
            f"--prompt has {len(prompt)} tokens, and this model reads {encoder.length}: only the "
            f"last {kept} of them are read."
        )
        prompt = prompt[-kept:]
    how = Sampling(config.temperature, config.top_k, config.top_p)
    writer.compile(prompt, how)
    return Ready(writer, words, prompt, how, time.perf_counter() - began)


def _tokens(prompt: str, words: "Tokenizer") -> np.ndarray:
    """The tokens of a prompt, int32 [n]; `UserError` if some of it was never seen."""
    from missing_bits.data.tokenizer import UNK

    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # what the shell passed on was no text
        raise UserError("--prompt holds bytes that are not UTF-8; write it in UTF-8.") from error
    ids = words.encode(prompt).ids
    if (ids == UNK).any():
        parts = prompt if words.kind == "characters" else prompt.split()
        strange = list(dict.fromkeys(part for part in parts if UNK in words.encode(part).ids))
        raise UserError(
            f"--prompt holds what the model has never seen: {' '.join(map(repr, strange[:5]))}; "
            "leave it out, or train with --tokenizer=bpe or bytes, which know all text."
        )
    require(len(ids) > 0, "--prompt holds nothing but white space, which this model does not read.")
    return ids


class _Shown:
    """Tokens as text for a terminal, up to the end of the document.

    Args:
      words: what cut the text.
    """

    def __init__(self, words: "Tokenizer") -> None:
        self._words = words
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ended = False

    def more(self, tokens: np.ndarray) -> str:
        """The text of further tokens [n]; a character whose bytes are not all there waits."""
        text = ""
        for token in tokens.tolist():
            self._ended |= token == _SEP
            if not self._ended:
                text += self._decoder.decode(self._words.spelled(token))
        return "".join(c if c.isprintable() or c in _PLAIN else "\ufffd" for c in text)
