"""The page: everything is on it, whatever runs brought along is text, and a browser shows it well."""

import html.parser
import json
import os

import numpy as np
import pytest
from PIL import Image

from missing_bits.results import comparison, folders, page
from missing_bits.tests.results import browser
from missing_bits.tests.results.written import PNG, write

EVIL = "<script>document.title='hit'</script>"
EVENT = '"><img src=x onerror="document.title=\'hit\'">'
LINK = "javascript:document.title='hit'"


class Seen(html.parser.HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags = set()
        self.attributes = []
        self.texts = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, name):
        return [value for _, mine, value in self.attributes if mine == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def made(place, **settings):
    runs = folders.find([str(place)])
    compared = comparison.compare(runs) if comparison.comparable(runs) else None
    return page.page(runs, compared, **settings)


@pytest.fixture
def several(tmp_path):
    """Runs of two settings on two environments, a sweep, and some that failed; with pictures."""
    place = tmp_path / "several"
    write(place / "a", [430.0, 500.0, 421.5])
    write(place / "b", [300.0, 200.0], learning_rate=1e-3, double=False)
    write(place / "c", [-100.0, -90.0], task="Acrobot-v1", seed=7)
    write(place / "d", None, ended={"state": "failed", "why": "the disk is full", "step": 10})
    for i, rate in enumerate((1e-4, 1e-2)):
        write(place / "sweep" / "trials" / str(i), [5.0 + i, 6.0], learning_rate=rate)
    (place / "sweep" / "sweep.json").write_text("{}")
    picture = Image.new("RGB", (800, 300), "#0072b2")
    picture.save(place / "a" / "learning_curve.png")
    picture.save(place / "a" / "episode.gif", save_all=True, append_images=[picture])
    return place


@pytest.fixture
def hostile(tmp_path):
    """Runs whose every text is HTML, by whose wrong reading the page's title would change."""
    place = tmp_path / EVENT.replace("/", "")
    config = {"options": {EVIL: EVENT, "wrappers": [LINK, EVIL]}}
    metric = f"eval/{EVIL}"
    figures = {f"baseline/{EVENT}": 1.0, f"eval/{LINK}": 2.0}
    versions = {EVIL: EVENT}
    facts = {"versions": versions, "devices": [EVIL], "data_digest": EVIL, "missing": [EVENT]}
    for i, task in enumerate((EVIL, EVENT, LINK)):
        folder = place / f"{i} {EVIL.replace('/', '')}"
        write(
            folder,
            [1.0, 2.0],
            task=task,
            exp=task,
            metric=metric,
            config=config,
            result=figures | facts,
        )
        (folder / f"{EVENT.replace('/', '')}.png").write_bytes(PNG)
    write(place / "ended", None, ended={"state": EVIL, "why": EVIL + EVENT, "step": 1})
    write(place / "sweep" / "trials" / "0", exp=EVIL, **{EVIL: 1})
    write(place / "sweep" / "trials" / "1", exp=EVIL, **{EVIL: EVENT})
    (place / "sweep" / "sweep.json").write_text("{}")
    (place / "sweep").rename(place / EVENT.replace("/", ""))
    return place


def test_everything_is_on_the_page(several):
    seen = Seen(made(several))
    for words in (
        "6 runs of dqn",
        "5 finished, 1 failed",
        "Left out of 6 runs: 1 failed.",
        "Acrobot-v1: return_mean",
        "CartPole-v1: return_mean",
        "450.5 [421.5, 500]",
        "the disk is full",
        "Options of sweeps",
        "jax 0.12.0",
        "python run.py --exp=dqn --env=CartPole-v1 --run.num-seeds=3",
        "python run.py --exp=dqn --env=CartPole-v1 --learning-rate=0.001 --no-double "
        "--run.num-seeds=2",
        "python run.py --exp=dqn --env=Acrobot-v1 --run.seed=7 --run.num-seeds=2",
        "Settings that differ A B C",
        "learning_curve.png",
        "episode.gif",
    ):
        assert words in seen.text, words
    assert sum(source.startswith("data:image/png;base64,") for source in seen.values("src")) == 1
    assert sum(source.startswith("data:image/gif;base64,") for source in seen.values("src")) == 1
    assert "svg" in seen.tags


def is_inert(text):
    """Whether a page has nothing that could act, ask for anything or lead anywhere else."""
    seen = Seen(text)
    active = {"script", "iframe", "object", "embed", "link", "form", "base", "audio", "video"}
    assert not seen.tags & active
    assert not [name for _, name, _ in seen.attributes if name.startswith("on")]
    for name in ("href", "xlink:href"):
        assert all(value.startswith("#") for value in seen.values(name))
    assert all(value.startswith("data:image/") for value in seen.values("src"))
    assert not [value for value in seen.values("style") if "url(" in value and "url(#" not in value]
    return seen


def test_what_runs_brought_along_is_text(hostile):
    seen = is_inert(made(hostile))
    assert seen.text.count(EVIL) > 10
    assert seen.text.count(EVENT) > 10
    assert seen.text.count(LINK) > 5
    assert sum(source.startswith("data:image/png;base64,") for source in seen.values("src")) == 3


def test_a_page_of_damaged_runs(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "config.json").write_text("{")
    seen = is_inert(made(tmp_path))
    assert "No run is finished with a score" in seen.text
    assert "config.json is torn" in seen.text
    assert "1 run of unknown kind" in seen.text


STRANGE = [None, True, -1.5, 1e400, 10**400, EVIL, [], [[EVIL]], {}, {"a": {EVIL: 1}}]


def test_whatever_a_result_holds_there_is_a_page(tmp_path):
    keys = ["versions", "devices", "digest", "data_digest", "eval/x", "missing", "wall_seconds"]
    keys.append("protocol")
    for key in keys:
        for i, value in enumerate(STRANGE):
            write(tmp_path / f"{key.replace('/', '')}{i}", [1.0], result={key: value})
    for i, value in enumerate(STRANGE):
        strange = {"protocol": {"termination": value, EVIL: value, "seeds": value}}
        write(tmp_path / f"within{i}", [1.0], result=strange)
    text = made(tmp_path)
    is_inert(text)
    assert text.count('<details class="run"') == (len(keys) + 1) * len(STRANGE)


def test_only_pictures_of_a_fair_size_are_put_in(several, monkeypatch):
    folder = several / "a"
    (folder / "fake.png").write_text("<svg onload=alert(1)>")
    (folder / "linked.png").symlink_to(folder / "learning_curve.png")
    (folder / "huge.png").write_bytes(PNG + bytes(2000))
    os.mkfifo(folder / "pipe.png")
    size = (folder / "learning_curve.png").stat().st_size
    monkeypatch.setattr(page, "_LARGEST", size + 100)
    seen = Seen(made(several))
    assert "Too large for this page: huge.png." in seen.text
    assert not any(name in seen.text for name in ("fake.png", "linked.png", "pipe.png"))
    assert "Too large" not in Seen(made(several, with_pictures=False)).text
    monkeypatch.setattr(page, "_MOST", size)  # room for one
    assert "Too large for this page: huge.png, learning_curve.png." in Seen(made(several)).text


def test_marks_that_turn_text_around_are_not_on_the_page(tmp_path):
    write(tmp_path / "a", task="abc\u202edef\x00\x1b[31m")
    text = made(tmp_path)
    assert not {"\u202e", "\x00", "\x1b"} & set(text)
    assert "abc?def??[31m" in text


# In a browser.


@pytest.fixture(scope="module")
def chromium():
    found = browser.start()
    yield found
    found.close()


def on_disk(tmp_path, text):
    file = tmp_path / "report.html"
    file.write_text(text)
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_a_screen_in_its_colors(chromium, several, tmp_path, width, scheme):
    file = on_disk(tmp_path, made(several))
    chromium.show(file, width, scheme)
    assert chromium.value("document.documentElement.scrollWidth") <= width
    # Nothing but what may be moved by itself is wider than the screen.
    wide = f"""[...document.querySelectorAll("body *")].filter(one => !one.closest(".scroll, svg")
        && one.getBoundingClientRect().right > {width} + 1).map(one => one.outerHTML)"""
    assert chromium.value(wide) == []
    pictures = "[...document.images].map(image => image.complete && image.naturalWidth)"
    assert chromium.value(pictures) == [800, 800]
    assert chromium.requests() == [file.resolve().as_uri()]
    assert not [event for event in chromium.said if event["method"] == "Log.entryAdded"]

    def brightness(what, selector):
        element = f"document.querySelector({json.dumps(selector)})"
        color = chromium.value(f"getComputedStyle({element}).{what}")
        return np.mean([int(part) for part in color.split("(")[1].rstrip(")").split(",")[:3]])

    page_is = brightness("backgroundColor", "body")
    for what, selector in (
        ("color", "body"),
        ("color", "td"),
        ("color", ".soft"),
        ("fill", "svg text"),
        ("color", ".finished"),
    ):
        ink = brightness(what, selector)
        assert (page_is - ink > 90) if scheme == "light" else (ink - page_is > 90), selector


def test_a_link_unfolds_the_run_it_leads_to(chromium, several, tmp_path):
    for i in range(6):  # so many that runs are folded
        write(several / f"more{i}", seed=i)
    file = on_disk(tmp_path, made(several))
    chromium.show(file, 1200, "light")
    unfolded = "[...document.querySelectorAll('details.run[open]')].length"
    assert chromium.value(unfolded) == 0
    chromium.value("document.querySelector('a[href=\"#run-3\"]').click()")
    assert chromium.value("location.hash") == "#run-3"
    assert chromium.value(unfolded) == 1
    assert chromium.value("document.querySelector('#run-3').getBoundingClientRect().top") < 844


def test_nothing_of_what_runs_brought_along_acts(chromium, hostile, tmp_path):
    file = on_disk(tmp_path, made(hostile))
    for width in (390, 1200):
        chromium.show(file, width, "dark")
        assert chromium.value("document.title").startswith("6 runs of ")
        assert chromium.value("document.scripts.length") == 0
        assert chromium.value("document.documentElement.scrollWidth") <= width
        assert chromium.requests() == [file.resolve().as_uri()]


def test_the_page_forbids_scripts_to_itself(chromium, several, tmp_path):
    """Were one to slip through, it would not run, nor ask the network for anything."""
    text = made(several).replace(
        "</header>", f"{EVIL}<img src='https://example.com/x.png'></header>"
    )
    chromium.show(on_disk(tmp_path, text), 1200, "light")
    assert chromium.value("document.title") == "6 runs of dqn"
    refused = [
        event["params"]["entry"]["text"]
        for event in chromium.said
        if event["method"] == "Log.entryAdded"
    ]
    assert len(refused) == 2
    assert all("Content Security Policy" in said for said in refused)
