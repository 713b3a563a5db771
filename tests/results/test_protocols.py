"""Protocols in words, whatever a file says."""

import pytest

from missing_bits.results import protocols

PROTOCOL = {
    "env": "jax/Breakout-v1",
    "env_kwargs": {},
    "wrappers": [],
    "termination": "game over",
    "time_limit": 10_000,
    "cut_at": None,
    "stickiness": 0.1,
    "epsilon": 0.0,
    "difficulty_ramping": True,
    "episodes": 100,
    "seeds": [0, 1, 2, 5],
}


def test_words_by_hand():
    assert protocols.words(PROTOCOL) == (
        "termination game over, time limit 10000 steps, stickiness 0.1, epsilon 0, "
        "difficulty ramping true, episodes 100, seeds 0-2, 5"
    )
    within = {"env_kwargs": {"gravity": 5}, "wrappers": ["flatten", "resize:8x8"], "cut_at": 20}
    assert protocols.words(within) == (
        'env kwargs {"gravity": 5}, wrappers flatten,resize:8x8, cut at 20 steps'
    )


@pytest.mark.parametrize(
    ("seeds", "said"), [([3], "3"), ([2, 0, 1], "0-2"), ([0, 2], "0, 2"), ([7, 7, 8, 1], "1, 7-8")]
)
def test_ranges(seeds, said):
    assert protocols.ranges(seeds) == said


def test_entries_in_which_protocols_differ():
    other = {**PROTOCOL, "epsilon": 0.05, "seeds": [9], "frame_skip": 4}
    assert protocols.differing([PROTOCOL, PROTOCOL]) == []
    assert protocols.differing([PROTOCOL, PROTOCOL, other]) == ["epsilon", "frame_skip"]


@pytest.mark.parametrize(
    "strange", [True, 10**400, 1e400, "a\nb\x1b", [[{}]], {"a": {"b": None}}, "x" * 999]
)
def test_anything_is_said_shortly_and_printably(strange):
    for protocol in ({"x": strange}, {"seeds": strange}, {str(strange): 1}):
        said = protocols.words(protocol)
        assert said.isprintable()
        assert len(said) < 150
