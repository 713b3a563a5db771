"""A headless Chromium that looks at a file, told what to do by its DevTools protocol over a pipe.

Importable as `missing_bits.tests.results.browser`.
"""

import base64
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Brings two pipes to where a browser looks for them, 3 and 4, and becomes the browser.
_PLACE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 60  # seconds for an answer


class Browser:
    """A browser with one page.

    Attributes:
      said: events of the page, such as requests, exceptions and what the console shows.
    """

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory()
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _PLACE,
                *map(str, ends),
                program,
                "--headless=new",
                "--no-sandbox",  # which root, in a container, has not
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.said: list[dict[str, Any]] = []
        pages = self("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        attached = self("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        given_up = time.monotonic() + _PATIENCE
        while time.monotonic() < given_up:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.said.append(answer)
        raise AssertionError(f"no answer to {method}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._from, 1 << 16)
            assert read, "the browser is gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def show(self, file: pathlib.Path, width: int, scheme: str) -> None:
        """Opens a file as a screen of a width shows it, in the light or the dark scheme."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", features=features)
        self.said.clear()
        self("Page.navigate", url=file.resolve().as_uri())
        while not self.value("document.readyState == 'complete' && location.protocol == 'file:'"):
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)["result"]
        return result.get("value")

    def picture(self, path: pathlib.Path, height: int = 0) -> None:
        """Writes what the page looks like: its upper part, or all of it."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"]}
        clip["height"] = min(size["height"], height or size["height"])
        shot = self("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """The addresses that the page has asked for since it was opened, the data in it aside."""
        sent = (event for event in self.said if event.get("method") == "Network.requestWillBeSent")
        addresses = [event["params"]["request"]["url"] for event in sent]
        return [address for address in addresses if not address.startswith("data:")]

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()


def start() -> Browser:
    """A browser; skips the test where none is installed."""
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    return Browser(program)
