"""The plane of latents: points stand where the encoder says, and the grid spans them."""

import numpy as np
import pytest

from missing_bits.data.images import Split, in_memory
from missing_bits.eval import latent_maps
from missing_bits.pictures import latents


def test_a_grid_spans_most_of_the_points_and_falls_downwards():
    points = np.stack([np.linspace(0, 100, 101), np.linspace(-50, 50, 101)], axis=1)
    grid = latents.grid(points, 3)
    assert grid.shape == (9, 2)
    np.testing.assert_allclose(grid[0], [3, 47], atol=1e-4)
    np.testing.assert_allclose(grid[2], [97, 47], atol=1e-4)
    np.testing.assert_allclose(grid[6], [3, -47], atol=1e-4)


def test_the_title_of_the_grid_says_where_it_lies(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(latents.images, "grid", lambda found, n, title, path: titles.append(title))
    places = np.array([[-1.25, 3.0], [2.0, 3.0], [-1.25, -0.5], [2.0, -0.5]])
    latents.decoded(np.zeros((4, 2, 2, 1)), places, tmp_path / "grid.png")
    (title,) = titles
    assert "first from -1.2 (left) to 2, the second from -0.5 (bottom) to 3" in title


@pytest.mark.parametrize("labeled", [True, False])
def test_the_map_and_the_grid_are_drawn(labeled, tmp_path):
    """The decoder gets 16 x 16 places; without labels there is nothing to color a map by."""
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)
    split = Split(images, np.arange(30, dtype=np.int32) % 12 if labeled else None)
    data = in_memory(split, split, tuple(f"${i}_" for i in range(12)) if labeled else ())
    seen = []

    def decode(learned, z):
        seen.append(z.shape)
        return z.sum(axis=1)[:, None, None, None] + np.zeros((1, 4, 4, 1), np.float32)

    draw = latent_maps.pictures(data, lambda learned, x: x[:, 0, :2, 0], decode)
    draw(None, 0, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {"latent_grid.png"} | ({"latent_map.png"} if labeled else set())
    assert seen == [(256, 2)]
