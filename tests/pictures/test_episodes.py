"""The GIF of an episode."""

import weakref

import numpy as np
import pytest
from PIL import Image

from missing_bits.envs import environments
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError
from missing_bits.pictures import episodes


def film(count, height=40, width=60):
    """Make frames whose color moves from black to red: frame i tells where it stood."""
    return [
        np.full((height, width, 3), [round(255 * i / count), 0, 0], np.uint8) for i in range(count)
    ]


def gif(frames, returns, path):
    """Write a GIF of frames and as many returns."""
    episodes.gif(zip(frames, returns, strict=True), path)


def red(picture):
    """Return the red of the lower corner, away from the text."""
    return picture.convert("RGB").getpixel((picture.width - 1, picture.height - 1))[0]


def read(path):
    """Read every frame of a GIF."""
    with Image.open(path) as picture:
        frames = []
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append((picture.copy(), picture.info["duration"]))
    return frames


def test_a_short_episode_keeps_every_frame(tmp_path):
    gif(film(20), list(range(20)), tmp_path / "episode.gif")
    frames = read(tmp_path / "episode.gif")
    assert len(frames) == 20
    reds = [red(picture) for picture, _ in frames]
    np.testing.assert_allclose(
        reds, [255 * i / 20 for i in range(20)], atol=4
    )  # a GIF has 256 colors at most
    assert frames[0][0].size == (300, 200), "300 wide, in the frame's proportions"
    assert [duration for _, duration in frames] == [40] * 19 + [1500]


@pytest.mark.parametrize("count", [150, 151, 300, 301, 777])
def test_a_long_episode_is_thinned_and_keeps_its_first_and_last_frame(tmp_path, count):
    gif(film(count, 2, 30), np.arange(count), tmp_path / "episode.gif")
    frames = read(tmp_path / "episode.gif")
    assert 75 <= len(frames) <= 150
    reds = [red(picture) for picture, _ in frames]
    assert reds[0] < 5
    assert reds[-1] > 250
    assert reds == sorted(reds)


def test_the_return_so_far_is_written_on_the_frame(tmp_path):
    black = [np.zeros((100, 300, 3), np.uint8)] * 2
    gif(black, [0.0, -7.5], tmp_path / "a.gif")
    gif(black, [0.0, 99.0], tmp_path / "b.gif")
    a = np.asarray(read(tmp_path / "a.gif")[1][0].convert("L"))
    b = np.asarray(read(tmp_path / "b.gif")[1][0].convert("L"))
    assert a[:30].max() > 200, "white text"
    assert a[30:].max() < 50
    assert (a != b).any()


def test_no_frames_no_file(tmp_path):
    episodes.gif([], tmp_path / "episode.gif")
    assert not list(tmp_path.iterdir())


def test_a_recorded_episode_has_a_frame_and_a_return_before_and_after_every_step():
    """Always left, the pole falls within ten steps, each worth 1."""

    def left(learned, memory, observation, reset):
        assert observation.shape == (1, 4)
        return np.zeros(1, int), memory

    envs = environments.Envs("CartPole-v1").find(period=1)
    frames = list(envs.record(Player(lambda num_envs: (), left), None, 0))
    assert 9 <= len(frames) <= 11
    assert [frame.total for frame in frames] == [float(i) for i in range(len(frames))]
    assert {(frame.picture.dtype, frame.picture.ndim) for frame in frames} == {
        (np.dtype(np.uint8), 3)
    }
    assert not np.array_equal(frames[0].picture, frames[-1].picture)


def test_few_frames_are_held_however_long_an_episode_is():
    """Of those that the environment draws, hardly more than the last one."""
    held = []
    most = 0

    def frames():
        nonlocal most
        for _ in range(2_000):
            picture = np.zeros((2, 30, 3), np.uint8)
            held.append(weakref.ref(picture))
            most = max(most, sum(seen() is not None for seen in held[-300:]))
            yield picture, 0.0

    kept = episodes.thinned(frames())
    assert most <= 3
    assert len(kept) <= 250


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_gray_and_transparent_frames_are_drawn(shape, tmp_path):
    gif([np.full(shape, 200, np.uint8)] * 2, [0.0, 1.0], tmp_path / "episode.gif")
    picture = read(tmp_path / "episode.gif")[0][0].convert("RGB")
    assert picture.size == (300, 200)
    assert picture.getpixel((299, 199)) == pytest.approx((200,) * 3, abs=4)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (None, "render() returned None"),
        ([1, 2], "render() returned [1, 2]"),
        (np.zeros((2, 3, 3), np.float32), "an array of shape (2, 3, 3) and dtype float32"),
        (np.zeros((2, 3, 5), np.uint8), "an array of shape (2, 3, 5) and dtype uint8"),
        (np.zeros((0, 3, 3), np.uint8), "an array of shape (0, 3, 3)"),
        (np.zeros(3, np.uint8), "an array of shape (3,)"),
    ],
)
def test_what_is_no_picture_is_named(picture, said, tmp_path):
    with pytest.raises(UserError) as raised:
        gif([picture], [0.0], tmp_path / "episode.gif")
    assert said in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_frame_of_any_proportions_becomes_a_picture(tmp_path):
    for height, width in ((1, 1000), (1000, 1)):
        gif([np.zeros((height, width, 3), np.uint8)], [0.0], tmp_path / "episode.gif")
        picture = read(tmp_path / "episode.gif")[0][0]
        assert picture.width <= 300
        assert picture.height <= 600
