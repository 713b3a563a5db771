"""What a masked language model would put in place of `[MASK]`."""

from typing import Any

import jax
import numpy as np

from missing_bits.data import tokenizer
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError, require
from missing_bits.nets import text


def fill(run: str, sentence: str, top: int) -> str:
    """The likeliest tokens for each mask of a sentence, as lines to print.

    Args:
      run: the folder of a finished run of masked language modeling.
      sentence: with `[MASK]` once or more; it stands for one token, which may be a part of a word.
      top: how many candidates to name, at least 1.

    Raises:
      UserError: the run is of another kind, or the sentence has no mask or is too long.
    """
    loaded = files.load(run)
    require(
        loaded.card.get("exp") == "masked_language",
        f"{run} holds no language model. Name the folder of a finished run of --exp=masked_language.",
    )
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


def guesses(
    encoder: TextEncoder, variables: Variables, head: Any, ids: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """The probabilities [n, V] of all tokens at places [n] of one text of token ids [L]."""
    encoded = encoder.tokens(variables, ids[None], np.ones_like(ids)[None])[0, places]
    logits = text.word_head().apply(head, encoded, encoder.table(variables.params))
    return np.asarray(jax.nn.softmax(logits, axis=-1))
