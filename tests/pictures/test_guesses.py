"""Guesses of hidden tokens as a page that a person can read."""

from missing_bits.pictures import guesses
from missing_bits.pictures.guesses import Candidate, Gap


def test_a_page_by_hand():
    gaps = [
        Gap("cat", "[MASK]", (Candidate("cat", 0.934), Candidate("dog", 0.05))),
        Gap("##s", "##ed", (Candidate("##ing", 0.4), Candidate("##s", 0.3))),
        Gap("the", "the", (Candidate("the", 1.0), Candidate("a", 0.0))),
    ]
    page = guesses.page(["A [1]  sleep [2] .", "On [3] mat ."], gaps, "Row 7 of 9")
    assert page.splitlines() == [
        "Row 7 of 9: 2 of 3 hidden tokens guessed",
        "========================================",
        "",
        "  A [1] sleep [2] .",
        "",
        "  On [3] mat .",
        "",
        "       hidden       guesses, the likeliest first",
        "  [1]  cat     yes  cat                93 %  dog                 5 %",
        "  [2]  ##s          ##ing              40 %  ##s                30 %  shown as ##ed",
        "  [3]  the     yes  the               100 %  a                   0 %  shown as the",
    ]


def test_long_passages_and_tokens_keep_to_their_lines():
    gap = Gap("x" * 90, "[MASK]", (Candidate("\n" * 40, 0.5),))
    page = guesses.page(["word " * 200], [gap], "Row 1 of 1")
    assert max(map(len, page.splitlines())) <= 96
    assert page.count("word") == 200
