"""What a masked language model would put in place of `[MASK]`.

python run.py fill --from=RUN --text="The [MASK] statement"
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from missing_bits.commands import command_line
from missing_bits.errors import UserError, require
from missing_bits.experiments import ALIASES, EXPERIMENTS

if TYPE_CHECKING:  # what is imported late, so that --help is quick
    from missing_bits.encoders.text import TextEncoder
    from missing_bits.encoders.variables import Variables


@dataclass(frozen=True)
class Config:
    """Prints the likeliest tokens for each mask of a text, with their probabilities."""

    run: Annotated[str, tyro.conf.arg(name="from")]
    """Folder of a finished run of --exp=bert, or one of its .safetensors files."""
    text: str
    """What to fill in, with [MASK] once or more; it stands for one token, which may be a part of a
    word."""
    top: int = 5
    """How many candidates to name for each mask."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    config = command_line.of_command("fill", Config, arguments)
    print(fill(config.run, config.text, config.top))
    return 0


def fill(run: str, sentence: str, top: int) -> str:
    """The likeliest tokens for each mask of a sentence, as lines to print.

    Args:
      run: the folder of a finished run of masked language modeling.
      sentence: with `[MASK]` once or more; it stands for one token, which may be a part of a word.
      top: how many candidates to name, at least 1.

    Raises:
      UserError: the run is of another kind, or the sentence has no mask or is too long.
    """
    from missing_bits.data import tokenizer
    from missing_bits.data.tokenizer import Tokenizer
    from missing_bits.encoders import files

    loaded = files.load(run)
    exp = loaded.card.get("exp")
    is_text = files.kind_of(loaded.encoder) == "text"
    require(
        is_text and ALIASES.get(exp, exp) in ("bert", EXPERIMENTS["bert"].where),
        f"{run} holds no language model. Name the folder of a finished run of --exp=bert.",
    )
    files.check_head(loaded, _head_like(loaded.encoder), run)
    try:
        sentence.encode()
    except UnicodeEncodeError as error:  # what the shell passed on was no text
        raise UserError("--text holds bytes that are not UTF-8; write it in UTF-8.") from error
    words = Tokenizer.from_json(loaded.encoder.tokenizer)
    require(
        1 <= top <= words.size,
        f"--top is {top}; it must lie between 1 and {words.size}, the size of the vocabulary.",
    )
    ids = words.encode(sentence, specials=True).ids
    places = np.flatnonzero(ids == tokenizer.MASK)
    require(
        places.size > 0,
        f'--text="{sentence}" has no [MASK]; write [MASK] in place of what is to be guessed.',
    )
    longest = loaded.encoder.length
    require(
        len(ids) <= longest,
        f"--text has {len(ids)} tokens; this run reads at most {longest}. Shorten it.",
    )
    chances = guesses(loaded.encoder, loaded.variables, loaded.head, ids, places)
    lines = [sentence]
    for number, row in enumerate(chances):
        lines += [f"[MASK] {number + 1}:"] if len(chances) > 1 else []
        best = np.argsort(-row, kind="stable")[:top]
        lines += [f"  {100 * row[token]:5.1f} %  {words.token(token)}" for token in best]
    return "\n".join(lines)


def _head_like(encoder: "TextEncoder") -> Any:
    """The shapes of the parameters of what guesses words."""
    import jax
    import jax.numpy as jnp

    from missing_bits.nets import text

    table = jax.ShapeDtypeStruct((encoder.vocabulary, encoder.num_features), jnp.float32)
    return jax.eval_shape(text.word_head().init, jax.random.key(0), table, table)


def guesses(
    encoder: "TextEncoder", variables: "Variables", head: Any, ids: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """The probabilities of all tokens at places of one text.

    Args:
      encoder: of text.
      variables: its own.
      head: parameters of what guesses words.
      ids: [L], the text's tokens.
      places: [n], indices of those to guess.

    Returns:
      [n, V].
    """
    import jax

    from missing_bits.nets import text

    encoded = encoder.tokens(variables, ids[None], np.ones_like(ids)[None])[0, places]
    logits = text.word_head().apply(head, encoded, encoder.table(variables.params))
    return np.asarray(jax.nn.softmax(logits, axis=-1))
