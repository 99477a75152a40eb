"""A real Chromium that opens pages, driven through its debugging pipe: nothing to install beside
the browser.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OWN = ("file:", "data:", "about:")  # what a page may load
# what reaches beyond the window, but for boxes that scroll by themselves
OVERFLOW = """
[document.documentElement.scrollWidth > innerWidth ? 'the page' : '',
 ...[...document.querySelectorAll('body *')]
   .filter(e => !e.parentElement.closest('.scroll')
                && e.getBoundingClientRect().right > innerWidth + 1)
   .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))].filter(Boolean)
"""

# the browser listens on its descriptor 3 and answers on 4
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 100) for end in sys.argv[1:3]]
for number, pipe in enumerate(pipes, 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str:
    """The path of a browser, or ""."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


class Browser:
    """One tab; `events` are what the page did since the last `open`."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.left = to, back, b""
        self.events: list[dict[str, Any]] = []
        self.number, self.session, self.own = 0, "", OWN
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            part = os.read(self.back, 1 << 16)
            assert part, "the browser is gone"
            self.left += part
        message, _, self.left = self.left.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path | str, *, width: int, dark: bool) -> None:
        """A file, or the address of a page that is served."""
        url = page if isinstance(page, str) else page.as_uri()
        self.own = (url, "data:", "about:") if isinstance(page, str) else OWN
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")  # none where it is undefined

    def wait(self, expression: str, *, seconds: float = 60) -> Any:
        """What an expression gives once it gives something."""
        until = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < until, expression
            time.sleep(0.1)
        return found

    def type(self, text: str) -> None:
        """Text into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int = 0) -> None:
        """One key: Tab 9, Enter 13, Space 32, ArrowRight 39."""
        more = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        keys = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **keys, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **keys)

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Errors of the console, and requests that leave the page."""
        found = []
        for event in self.events:
            method, about = event.get("method", ""), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(about))
            if method == "Network.requestWillBeSent":
                url = about["request"]["url"]
                if not url.startswith(self.own):
                    found.append(url)
        return found


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A headless browser with a profile of its own; it ends with the block."""
    into, to = os.pipe()
    back, out = os.pipe()
    command = [
        sys.executable,
        "-c",
        LAUNCH,
        str(into),
        str(out),
        find(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, pass_fds=(into, out), stdout=quiet, stderr=quiet)
    os.close(into)
    os.close(out)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)  # the end of its pipe ends the browser
        process.wait(timeout=60)
        os.close(back)
