"""Text to numbers and back: WordPiece, or the bytes of UTF-8.

The vocabulary of WordPiece (Wu et al. 2016, arXiv:1609.08144, section 4.1) is trained on a corpus.
Its words are what white space and punctuation part, in the case they have; a token that continues a
word begins with "##". Words with rare letters, or of more than 100 characters, are unknown. Bytes
need no training and know all text; their words go with the white space before them (GPT-2's rule).

What is stored is the vocabulary and which of these two it is for. A tokenizer is never built from
the description of another program: it may hold regular expressions that never end.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from missing_bits.errors import UserError, require

# The library's threads would make it warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

PAD = 0
UNK = 1
SEP = 2
MASK = 3
SPECIALS = 4
"""The number of special tokens: ordinary ones have ids from here on."""
_SPECIALS = ("[PAD]", "[UNK]", "[SEP]", "[MASK]")
_CONTINUES = "##"
LARGEST = 1_000_000
"""Tokens of a vocabulary, at most: several times those of the largest published ones."""
LONGEST_WORD = 100
"""Characters of a word that WordPiece knows, at most, as in the authors' code."""
_KINDS_OF_MODELS = {"WordPiece": "wordpiece", "BPE": "bytes"}  # as the library calls ours


class Encoded(NamedTuple):
    """A text as tokens."""

    ids: np.ndarray  # int32 [n], in [0, size of the vocabulary)
    words: np.ndarray  # int32 [n], the word that a token belongs to: 0, 1, ..., increasing


class Tokenizer:
    """A vocabulary, and how text is cut into its tokens."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        self._is_bytes = isinstance(library.model, models.BPE)

    @property
    def size(self) -> int:
        """The number of tokens, the special ones included."""
        return self._library.get_vocab_size()

    def encode(self, text: str, specials: bool = False) -> Encoded:
        """The tokens of a text.

        Args:
          text: any; the empty text has no tokens.
          specials: whether "[MASK]" and the like stand for the special tokens, rather than for
            their characters.
        """
        self._library.encode_special_tokens = not specials
        return _encoded(self._library.encode(text))

    def encode_all(self, texts: Iterable[str]) -> list[Encoded]:
        """The tokens of each text, special tokens being characters like others."""
        self._library.encode_special_tokens = True
        return [_encoded(found) for found in self._library.encode_batch(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens: exact for bytes; of WordPiece, words with a space between them."""
        return self._library.decode([int(number) for number in ids], skip_special_tokens=False)

    def token(self, number: int) -> str:
        """How a token is spelled: "##ing", "[MASK]"; bytes as "a" (printable ASCII) or "<0x0a>".

        Args:
          number: the id, in [0, size).
        """
        if not self._is_bytes or number < SPECIALS:
            return self._library.id_to_token(int(number))
        byte = int(number) - SPECIALS
        return chr(byte) if 32 <= byte < 127 else f"<0x{byte:02x}>"

    def too_long(self, text: str) -> int:
        """How many words of a text are unknown whatever their letters are: they are too long."""
        if self._is_bytes:
            return 0
        split = self._library.pre_tokenizer
        runs = re.findall(rf"\S{{{LONGEST_WORD + 1},}}", text)
        words = [word for run in runs for word, _ in split.pre_tokenize_str(run)]
        return sum(len(word) > LONGEST_WORD for word in words)

    def to_json(self) -> str:
        """The kind of tokenizer and, where it is not always the same, the vocabulary as JSON."""
        if self._is_bytes:
            return json.dumps({"kind": "bytes"})
        vocabulary = [self._library.id_to_token(number) for number in range(self.size)]
        return json.dumps({"kind": "wordpiece", "vocabulary": vocabulary})

    def to_library_json(self) -> str:
        """The tokenizer in the format of the library `tokenizers`, for other programs."""
        return self._library.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` gave, or `to_library_json` (as runs stored it until 0.2).

        Of the latter nothing but the vocabulary is taken.

        Raises:
          UserError: the text is damaged, or of another tokenizer.
        """
        try:
            found = json.loads(text)
            kind = found["kind"] if "kind" in found else _KINDS_OF_MODELS[found["model"]["type"]]
            vocabulary = _vocabulary(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"The tokenizer is damaged or of another kind ({type(error).__name__}: {error}); "
                "take the file as training wrote it."
            ) from error
        if kind == "bytes":
            return cls(_bytes())
        require(
            kind == "wordpiece",
            f"The tokenizer is of kind {str(kind)[:40]!r}; this suite has wordpiece and bytes.",
        )
        _check(vocabulary)
        return cls(_of_pieces({token: number for number, token in enumerate(vocabulary)}))


def _vocabulary(found: dict[str, Any]) -> list[Any]:
    """The tokens of a stored tokenizer in the order of their ids, whatever they are."""
    if "kind" in found:
        return found.get("vocabulary", [])
    ids = found["model"]["vocab"]
    ordered = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in ordered] != list(range(len(ids))):
        raise ValueError("ids are missing")
    return ordered


def _check(vocabulary: Any) -> None:
    """Raises `UserError` for what is no vocabulary of WordPiece."""
    tokens = vocabulary if isinstance(vocabulary, list) else []
    require(
        tokens[:SPECIALS] == list(_SPECIALS),
        f"The tokenizer is of another kind: its first tokens are {str(tokens[:SPECIALS])[:80]}, "
        f"expected {', '.join(_SPECIALS)}; take the file as training wrote it.",
    )
    fit = all(isinstance(token, str) and token for token in tokens)
    require(
        fit and len(set(tokens)) == len(tokens) <= LARGEST,
        f"The tokenizer is damaged: of its {len(tokens):,} tokens some are empty, there twice or "
        f"no text, or they are over {LARGEST:,}; take the file as training wrote it.",
    )


def train(texts: Iterable[str], kind: Literal["wordpiece", "bytes"], size: int) -> Tokenizer:
    """Makes a tokenizer: always the same of the same texts.

    Args:
      texts: what a vocabulary of WordPiece is to fit.
      kind: "wordpiece", or "bytes" for a token for each of the 256 bytes.
      size: tokens in the vocabulary of WordPiece, the special ones included; fewer where the texts
        do not yield them.
    """
    return Tokenizer(_wordpiece(list(texts), size) if kind == "wordpiece" else _bytes())


def _wordpiece(texts: list[str], size: int) -> tokenizers.Tokenizer:
    split = pre_tokenizers.BertPreTokenizer()
    counts = Counter()
    for text in texts:
        counts.update(text)
    letters = [letter for letter in counts if split.pre_tokenize_str(letter)]
    letters.sort(key=lambda letter: (-counts[letter], letter))
    # At most half of the vocabulary: each letter stands there at the start and within a word.
    del letters[max(1, (size - SPECIALS) // 4) :]
    # The library numbers tokens like "##a" in the order of a hash table, and so breaks ties at
    # random. Given as special tokens they have numbers from the start. Letters that are never
    # within a word (punctuation) need none.
    within = [_CONTINUES + c for c in letters if len(split.pre_tokenize_str("a" + c)) == 1]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*_SPECIALS, *within],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=_CONTINUES,
    )
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token=_SPECIALS[UNK]))
    trained.pre_tokenizer = split
    trained.train_from_iterator(texts, trainer)
    return _of_pieces(trained.get_vocab())


def _of_pieces(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """The tokenizer that cuts words into the longest pieces of a vocabulary."""
    model = models.WordPiece(
        vocabulary,
        unk_token=_SPECIALS[UNK],
        max_input_chars_per_word=LONGEST_WORD,
        continuing_subword_prefix=_CONTINUES,
    )
    split = pre_tokenizers.BertPreTokenizer()
    return _library(model, split, decoders.WordPiece(prefix=_CONTINUES, cleanup=False))


def _bytes() -> tokenizers.Tokenizer:
    """The tokenizer in which a byte has the id SPECIALS + byte."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # The library writes most bytes as the character of that code, and the others, in their order,
    # as characters from 256 on.
    spelled = {ord(letter): letter for letter in alphabet if ord(letter) < 256}
    others = sorted(letter for letter in alphabet if ord(letter) >= 256)
    unspelled = [byte for byte in range(256) if byte not in spelled]
    spelled |= dict(zip(unspelled, others, strict=True))
    vocabulary = {spelled[byte]: SPECIALS + byte for byte in range(256)}
    vocabulary |= {special: number for number, special in enumerate(_SPECIALS)}
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _library(models.BPE(vocabulary, merges=[]), split, decoders.ByteLevel())


def _library(
    model: models.Model, split: pre_tokenizers.PreTokenizer, decoder: decoders.Decoder
) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = split
    library.decoder = decoder
    library.add_special_tokens(list(_SPECIALS))
    return library


def _encoded(found: tokenizers.Encoding) -> Encoded:
    return Encoded(np.array(found.ids, np.int32), np.array(found.word_ids, np.int32))
