"""Text to numbers and back: WordPiece, or the bytes of UTF-8.

The vocabulary of WordPiece (Wu et al. 2016, arXiv:1609.08144, section 4.1) is trained on a corpus.
Its words are what white space and punctuation part, in the case they have; a token that continues a
word begins with "##". Words with rare letters, or of more than 100 characters, are unknown. Bytes
need no training and know all text; their words go with the white space before them (GPT-2's rule).
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

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

    def to_json(self) -> str:
        """The tokenizer as JSON, in the format of the library `tokenizers`."""
        return self._library.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` gave.

        Raises:
          UserError: the text is damaged, or of another tokenizer.
        """
        try:
            library = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more special
            raise UserError(
                f"The tokenizer is damaged ({error}); take the file as training wrote it."
            ) from error
        ids = [library.token_to_id(special) for special in _SPECIALS]
        require(
            ids == [PAD, UNK, SEP, MASK],
            f"The tokenizer is of another kind: {', '.join(_SPECIALS)} have the ids {ids}, "
            "expected 0 to 3; take the file as training wrote it.",
        )
        return cls(library)


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
    model = models.WordPiece(
        trained.get_vocab(), unk_token=_SPECIALS[UNK], continuing_subword_prefix=_CONTINUES
    )
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
