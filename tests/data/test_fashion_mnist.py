"""Fashion-MNIST from idx files: found, checked, downloaded. No test needs them or a network."""

import gzip
import hashlib
import io
import urllib.error

import numpy as np
import pytest

from missing_bits import memory
from missing_bits.data import fashion_mnist
from missing_bits.errors import UserError


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
    )


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Four small files as if they were the published ones, and no other place to find them in."""
    rng = np.random.default_rng(0)
    contents = {}
    for name in fashion_mnist.FILES:
        count = 30 if "train" in name else 10
        if "images" in name:
            array = rng.integers(0, 256, (count, 28, 28), np.uint8)
        else:
            array = rng.integers(0, 10, (count,), np.uint8)
        contents[name] = idx(array)
    for name, content in contents.items():
        monkeypatch.setitem(fashion_mnist.FILES, name, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was asked")
    )
    return contents


@pytest.fixture
def folder(tmp_path, published):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i, (name, content) in enumerate(published.items()):
        if i % 2:
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def test_plain_and_gzipped_files(folder, published):
    found = fashion_mnist.load(str(folder))
    assert found.train.images.shape == (30, 28, 28, 1)
    assert found.test.images.shape == (10, 28, 28, 1)
    assert found.train.images.tobytes() == published["train-images-idx3-ubyte"][16:]
    assert found.test.labels.tolist() == list(published["t10k-labels-idx1-ubyte"][8:])
    assert found.test.labels.dtype == np.int32
    assert len(found.classes) == 10
    assert fashion_mnist.load(str(folder)).digest == found.digest


def test_the_place_of_debian_s_package_is_looked_at(folder, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", folder)
    assert len(fashion_mnist.load().train.labels) == 30


def damage(folder, change):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content[:-1] + bytes([content[-1] ^ 1]),
            "is not the published file: its content has SHA-256",
        ),
        (
            lambda content: content[:-1],
            r"is damaged: 23535 bytes for an array of shape \[30, 28, 28\]",
        ),
        (lambda content: content + b"x", "is damaged"),
        (lambda content: content[:9], "is damaged: 9 bytes"),
        (lambda content: b"\0\0\x0d" + content[3:], "is not an idx file of bytes"),  # floats
        (lambda content: b"\0\0\x08\x02" + content[4:], "is not an idx file of bytes"),
        (lambda content: b"", "is not an idx file of bytes"),
        (lambda content: b"<html>" * 9, "is not an idx file of bytes"),
    ],
)
def test_damaged_files(folder, change, message):
    damage(folder, change)
    with pytest.raises(UserError, match=message) as caught:
        fashion_mnist.load(str(folder))
    assert "train-images-idx3-ubyte" in str(caught.value)


def test_no_more_is_unpacked_than_was_published(folder, monkeypatch):
    """A small file may hold any number of zeros."""
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(100_000)))
    monkeypatch.setattr(fashion_mnist, "_LARGEST", 1_000)
    assert len(fashion_mnist.unpack(path, path.read_bytes())) == 1_001
    monkeypatch.setattr(memory, "available", lambda: 10)
    with pytest.raises(UserError, match=r"Reading .*train-images-idx3-ubyte.gz needs "):
        fashion_mnist.load(str(folder))


def test_a_cut_gzip_file(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"is damaged: .*get it anew"):
        fashion_mnist.load(str(folder))
    path.unlink()
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte.gz cannot be read: No such file.*the four files"
    ):
        fashion_mnist.load(str(folder))


def test_download_fills_the_cache_once(published, monkeypatch, tmp_path):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(
            gzip.compress(published[url.removeprefix(fashion_mnist.URL).removesuffix(".gz")])
        )

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    cache = tmp_path / "cache" / "missing_bits" / "fashion_mnist"
    first = fashion_mnist.load()
    assert len(asked) == 4
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        f"{name}.gz" for name in published
    )
    assert fashion_mnist.load().digest == first.digest
    assert len(asked) == 4
    (cache / "t10k-labels-idx1-ubyte.gz").unlink()  # only what is missing is fetched
    fashion_mnist.load()
    assert len(asked) == 5


def test_a_download_that_is_not_the_published_file_does_not_reach_the_cache(
    published, monkeypatch, tmp_path
):
    for body, message in (
        (gzip.compress(b"something else"), "is not the published file"),
        (b"<html>", "is damaged"),
    ):
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, body=body, **__: io.BytesIO(body))
        with pytest.raises(UserError, match=message):
            fashion_mnist.load()
        assert not list((tmp_path / "cache" / "missing_bits" / "fashion_mnist").iterdir())


def test_without_a_network_both_ways_are_told(published, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(
        UserError, match=r"apt-get install dataset-fashion-mnist.*four files.*--data-dir"
    ) as caught:
        fashion_mnist.load()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    not fashion_mnist.DEBIAN.exists(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_published_files():
    found = fashion_mnist.load(str(fashion_mnist.DEBIAN))
    assert (np.bincount(found.train.labels) == 6_000).all()
    assert (np.bincount(found.test.labels) == 1_000).all()
    assert found.moments()[0] == pytest.approx((0.2860,), abs=5e-5)  # as published widely
    assert found.moments()[1] == pytest.approx((0.3530,), abs=5e-5)
