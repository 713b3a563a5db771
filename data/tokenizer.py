"""Text to numbers and back: pieces of words, byte pairs, characters or bytes.

The vocabulary of WordPiece (Wu et al. 2016, arXiv:1609.08144, section 4.1) is trained on a corpus.
Its words are what white space and punctuation part, in the case they have; a token that continues a
word begins with "##". Words with rare letters, or of more than 100 characters, are unknown. Byte
pairs (GPT-2's form: Radford et al. 2019, section 2.2; Sennrich et al. 2016) are merged, the most
frequent first, within words that go with the white space before them; characters are those of the
corpus, and others are unknown. Bytes need no training. Bytes and byte pairs know all text.

What is stored is the vocabulary and which of these it is for. A tokenizer is never built from the
description of another program: it may hold regular expressions that never end.
"""

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from missing_bits.errors import UserError, require

# The library's threads would make it warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Kind = Literal["wordpiece", "bpe", "characters", "bytes"]

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
BYTES = SPECIALS + 256
"""The tokens that byte pairs are made of, the special ones included."""
_KINDS_OF_MODELS = {"WordPiece": "wordpiece", "BPE": "bytes"}  # as the library calls ours
_ANY_CHARACTER = tokenizers.Regex(r"[\s\S]")


class Encoded(NamedTuple):
    """A text as tokens."""

    ids: np.ndarray  # int32 [n], in [0, size of the vocabulary)
    words: np.ndarray  # int32 [n], the word that a token belongs to: 0, 1, ..., increasing


class Tokenizer:
    """A vocabulary, and how text is cut into its tokens."""

    def __init__(self, library: tokenizers.Tokenizer, kind: Kind) -> None:
        self._library = library
        self.kind = kind

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
        if self.kind == "characters" and not specials:
            return self._characters(text)
        self._library.encode_special_tokens = not specials
        return _encoded(self._library.encode(text))

    def encode_all(self, texts: Iterable[str]) -> list[Encoded]:
        """The tokens of each text, special tokens being characters like others."""
        if self.kind == "characters":  # the library takes seconds for a million
            return [self._characters(text) for text in texts]
        self._library.encode_special_tokens = True
        return [_encoded(found) for found in self._library.encode_batch(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens: of WordPiece, words with a space between them; else exact.

        Unknown characters come back as "[UNK]".
        """
        return self._library.decode([int(number) for number in ids], skip_special_tokens=False)

    def token(self, number: int) -> str:
        """How a token is spelled: "##ing", "[MASK]"; bytes as "a" (printable ASCII) or "<0x0a>".

        Args:
          number: the id, in [0, size).
        """
        if number < SPECIALS or self.kind in ("wordpiece", "characters"):
            return self._library.id_to_token(int(number))
        return "".join(
            chr(byte) if 32 <= byte < 127 else f"<0x{byte:02x}>" for byte in self.spelled(number)
        )

    def spelled(self, number: int) -> bytes:
        """The bytes that a token stands for, in UTF-8, which may end within a character.

        A token of WordPiece that begins a word has a space before it. Special tokens have none.

        Args:
          number: the id, in [0, size).
        """
        if number < SPECIALS:
            return b""
        spelling = self._library.id_to_token(int(number))
        if self.kind == "wordpiece":
            continues = spelling.startswith(_CONTINUES)
            return (spelling.removeprefix(_CONTINUES) if continues else f" {spelling}").encode()
        if self.kind == "characters":
            return spelling.encode()
        bytes_of = {letter: byte for byte, letter in _letters_of_bytes().items()}
        return bytes(bytes_of[letter] for letter in spelling)

    def too_long(self, text: str) -> int:
        """How many words of a text are unknown whatever their letters are: they are too long."""
        if self.kind != "wordpiece":
            return 0
        split = self._library.pre_tokenizer
        runs = re.findall(rf"\S{{{LONGEST_WORD + 1},}}", text)
        words = [word for run in runs for word, _ in split.pre_tokenize_str(run)]
        return sum(len(word) > LONGEST_WORD for word in words)

    def unknown_bytes(self, text: str) -> int:
        """How many bytes of a text in UTF-8 stand in characters or words that are unknown."""
        if self.kind in ("bytes", "bpe"):
            return 0
        if self.kind == "characters":
            unknown = self._characters(text).ids == UNK
            parts = (character for character, is_it in zip(text, unknown, strict=True) if is_it)
        else:
            self._library.encode_special_tokens = True
            found = self._library.encode(text)
            places = zip(found.ids, found.offsets, strict=True)
            parts = (text[start:end] for number, (start, end) in places if number == UNK)
        return sum(len(part.encode()) for part in parts)

    def _characters(self, text: str) -> Encoded:
        """The tokens of a text, one for each character; a word begins where white space does."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = self._codes
        nearest = np.minimum(np.searchsorted(known.codes, codes), len(known.codes) - 1)
        ids = np.where(known.codes[nearest] == codes, known.ids[nearest], UNK)
        space = np.array([character.isspace() for character in text], bool)
        starts = space & ~np.concatenate([[True], space[:-1]]) if len(space) else space
        return Encoded(ids.astype(np.int32), np.cumsum(starts, dtype=np.int32))

    @functools.cached_property
    def _codes(self) -> "_Codes":
        """The characters there are, to look them up."""
        letters = [self._library.id_to_token(number) for number in range(SPECIALS, self.size)]
        codes = np.array([ord(letter) for letter in letters], np.uint32)
        order = np.argsort(codes)
        return _Codes(codes[order], (SPECIALS + order).astype(np.int32))

    def to_json(self) -> str:
        """The kind of tokenizer and, where it is not always the same, the vocabulary as JSON."""
        if self.kind == "bytes":
            return json.dumps({"kind": "bytes"})
        vocabulary = [self._library.id_to_token(number) for number in range(self.size)]
        if self.kind == "characters":
            return json.dumps({"kind": "characters", "characters": "".join(vocabulary[SPECIALS:])})
        if self.kind == "bpe":
            ids = {token: number for number, token in enumerate(vocabulary)}
            merges = [[ids[left], ids[right]] for left, right in _merges(self._library)]
            return json.dumps({"kind": "bpe", "merges": merges})
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
            kind = found["kind"] if "kind" in found else _kind_of_model(found["model"])
            vocabulary = _vocabulary(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"The tokenizer is damaged or of another kind ({type(error).__name__}: {error}); "
                "take the file as training wrote it."
            ) from error
        if kind == "bytes":
            return cls(_bytes(), "bytes")
        if kind == "bpe":
            return cls(_of_merges(_checked_merges(found.get("merges"))), "bpe")
        if kind == "characters":
            return cls(_of_characters(_checked_characters(found.get("characters"))), "characters")
        require(
            kind == "wordpiece",
            f"The tokenizer is of kind {str(kind)[:40]!r}; this suite has wordpiece, bpe, "
            "characters and bytes.",
        )
        _check(vocabulary)
        pieces = _of_pieces({token: number for number, token in enumerate(vocabulary)})
        return cls(pieces, "wordpiece")


class _Codes(NamedTuple):
    """The characters of a vocabulary of n."""

    codes: np.ndarray  # uint32 [n], their numbers in Unicode, ascending
    ids: np.ndarray  # int32 [n]


def _kind_of_model(model: dict[str, Any]) -> str:
    """What runs until 0.2 stored, as the library describes it."""
    kind = _KINDS_OF_MODELS[model["type"]]
    if kind == "bytes" and model["merges"]:
        raise ValueError("byte pairs are read from what to_json gave")
    return kind


def _vocabulary(found: dict[str, Any]) -> list[Any]:
    """The tokens of a stored tokenizer in the order of their ids, whatever they are."""
    if "kind" in found:
        return found.get("vocabulary", [])
    ids = found["model"]["vocab"]
    ordered = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in ordered] != list(range(len(ids))):
        raise ValueError("ids are missing")
    return ordered


def _checked_merges(merges: Any) -> list[tuple[int, int]]:
    """Pairs of ids from a file; raises `UserError` if they are none."""
    pairs = merges if isinstance(merges, list) else [None]
    fits = len(pairs) <= LARGEST and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(one) is int and SPECIALS <= one < BYTES + place for one in pair)
        for place, pair in enumerate(pairs)
    )
    require(
        fits,
        "The tokenizer is damaged: its merges are no pairs of earlier tokens; take the file as "
        "training wrote it.",
    )
    return [(left, right) for left, right in pairs]


def _checked_characters(characters: Any) -> str:
    """Characters from a file; raises `UserError` if they are none."""
    fits = isinstance(characters, str) and 0 < len(set(characters)) == len(characters) <= LARGEST
    require(
        fits,
        "The tokenizer is damaged: its characters are no text, none, there twice or over "
        f"{LARGEST:,}; take the file as training wrote it.",
    )
    return characters


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


def train(texts: Iterable[str], kind: Kind, size: int) -> Tokenizer:
    """Makes a tokenizer: always the same of the same texts.

    Args:
      texts: what a vocabulary is to fit.
      kind: "wordpiece" or "bpe", "characters" for those of the texts, or "bytes" for a token for
        each of the 256 bytes.
      size: tokens in the vocabulary of the first two, the special ones included; fewer where the
        texts do not yield them.
    """
    if kind == "bytes":
        return Tokenizer(_bytes(), kind)
    if kind == "characters":
        counts = _characters_of(texts)
        return Tokenizer(_of_characters("".join(sorted(counts))), kind)
    library = _wordpiece(list(texts), size) if kind == "wordpiece" else _bpe(texts, size)
    return Tokenizer(library, kind)


def _characters_of(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return counts


def _bpe(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    """Byte pairs, of which all text is made."""
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(texts, trainer)
    ids = {letter: SPECIALS + byte for byte, letter in _letters_of_bytes().items()}
    pairs = []
    for left, right in _merges(trained):
        pairs.append((ids[left], ids[right]))
        ids.setdefault(left + right, len(ids) + SPECIALS)
    return _of_merges(pairs)


def _merges(library: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    """The pairs that a tokenizer merges, in their order."""
    return [(left, right) for left, right in json.loads(library.to_str())["model"]["merges"]]


def _of_merges(pairs: Sequence[tuple[int, int]]) -> tokenizers.Tokenizer:
    """The tokenizer that merges pairs of ids, each to the next id or to one so spelled before."""
    vocabulary = _vocabulary_of_bytes()
    spellings = list(vocabulary)
    merges = []
    for left, right in pairs:
        require(
            max(left, right) < len(spellings),
            "The tokenizer is damaged: it merges what is not there yet; take the file as training "
            "wrote it.",
        )
        merges.append((spellings[left], spellings[right]))
        both = spellings[left] + spellings[right]
        if both not in vocabulary:
            vocabulary[both] = len(spellings)
            spellings.append(both)
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _library(models.BPE(vocabulary, merges), split, decoders.ByteLevel())


def _of_characters(characters: str) -> tokenizers.Tokenizer:
    """The tokenizer in which each of some characters is a token."""
    vocabulary = {special: number for number, special in enumerate(_SPECIALS)}
    vocabulary |= {letter: SPECIALS + number for number, letter in enumerate(characters)}
    model = models.WordLevel(vocabulary, unk_token=_SPECIALS[UNK])
    split = pre_tokenizers.Split(_ANY_CHARACTER, "isolated")
    return _library(model, split, decoders.Fuse())


def _wordpiece(texts: list[str], size: int) -> tokenizers.Tokenizer:
    split = pre_tokenizers.BertPreTokenizer()
    counts = _characters_of(texts)
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


@functools.cache
def _letters_of_bytes() -> dict[int, str]:
    """How the library spells each byte, in their order."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # It writes most bytes as the character of that code, and the others, in their order, as
    # characters from 256 on.
    spelled = {ord(letter): letter for letter in alphabet if ord(letter) < 256}
    others = sorted(letter for letter in alphabet if ord(letter) >= 256)
    unspelled = [byte for byte in range(256) if byte not in spelled]
    spelled |= dict(zip(unspelled, others, strict=True))
    return {byte: spelled[byte] for byte in range(256)}


def _vocabulary_of_bytes() -> dict[str, int]:
    """Special tokens, then the bytes: a byte has the id SPECIALS + byte."""
    vocabulary = {special: number for number, special in enumerate(_SPECIALS)}
    return vocabulary | {letter: SPECIALS + byte for byte, letter in _letters_of_bytes().items()}


def _bytes() -> tokenizers.Tokenizer:
    """The tokenizer of bytes."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = models.BPE(_vocabulary_of_bytes(), merges=[])
    return _library(model, split, decoders.ByteLevel())


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
