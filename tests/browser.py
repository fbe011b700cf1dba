"""A headless Chromium spoken to over its DevTools protocol: enough to open a page, act on it and hear its complaints."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "no Chromium: apt install chromium"
NEEDS_BROWSER = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)

_FOLLOWS = """const following = (text) => {
    const from = text && [...document.querySelectorAll("*")].filter((one) => one.textContent.trim() === text).pop();
    return (one) => !text || (from && from.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING);
};"""


class Page:
    """One tab. `complaints` gathers console errors, exceptions and log errors; `requests` every url it asked for; `sent` what the
    page sent, by request, and `refusals` the answers of 400 and more.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers = socket, itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.sent: dict[str, str] = {}
        self.refusals: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, event: dict[str, Any]) -> None:
        name, given = event.get("method", ""), event.get("params", {})
        if name == "Runtime.exceptionThrown" or (name == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning")):
            self.complaints.append(json.dumps(given))
        elif name == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.complaints.append(given["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
            self.sent[given["requestId"]] = given["request"].get("postData", "")
        elif name == "Network.responseReceived" and given["response"]["status"] >= 400:
            answer = given["response"]
            self.refusals.append(f"{answer['status']} {answer['url']} for {self.sent.get(given['requestId'])}")
        elif name == "Page.loadEventFired":
            self.loaded = True

    def open(self, path: Path) -> None:
        self.loaded = False
        self.call("Page.navigate", url=path.as_uri())
        for _ in range(600):
            self.do("1")
            if self.loaded:
                return
            time.sleep(0.05)
        raise AssertionError("the page did not load")

    def visit(self, url: str) -> None:
        """Open a url and wait until it has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'", url)

    def until(self, script: str, what: str, seconds: float = 120) -> Any:
        """The first true value of an expression, asked for again and again."""
        end = time.monotonic() + seconds
        while not (found := self.do(script)):
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s on a page that says {self.text()[:1500]!r}"
            time.sleep(0.3)
        return found

    def text(self) -> str:
        return self.do("document.body.innerText")

    def click(self, text: str, brings: str = "", after: str = "") -> None:
        """Click the innermost visible thing whose whole text is `text`, as a mouse does, once it lies still and uncovered; the
        first one after the text `after`. `brings` is what the page says then; a page that was not ready and does not say it is
        clicked again, as people do.
        """
        while True:
            self._click(text, after)
            end = time.monotonic() + 10
            while brings not in self.text():
                if time.monotonic() > end:
                    break
                time.sleep(0.3)
            else:
                return

    def _click(self, text: str, after: str) -> None:
        find = f"""(() => {{
            {_FOLLOWS}
            const follows = following({json.dumps(after)});
            const fits = [...document.querySelectorAll("a, button, [role], label, span, p")].filter(
                (one) => one.textContent.trim() === {json.dumps(text)} && one.getClientRects().length && follows(one));
            const one = fits.find((one) => !fits.some((other) => other !== one && one.contains(other)));
            if (!one) return null;
            one.scrollIntoView({{block: "center"}});
            const at = one.getBoundingClientRect(), x = at.x + at.width / 2, y = at.y + at.height / 2;
            const there = document.elementFromPoint(x, y);
            return there && (one.contains(there) || there.contains(one)) ? [x, y] : null;
        }})()"""
        what, before = f"something to click that says {text!r}", None
        while (at := self.until(find, what)) != before:  # menus and dialogs open with a movement
            before = at
            time.sleep(0.3)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **button)
        time.sleep(0.5)

    def write(self, selector: str, text: str, after: str = "") -> None:
        """Type into the first field that matches, after the text `after`, instead of what it has."""
        find = f"""(() => {{
            {_FOLLOWS}
            const one = [...document.querySelectorAll({json.dumps(selector)})].find(following({json.dumps(after)}));
            if (!one) return false;
            one.focus();
            one.select();
            return true;
        }})()"""
        self.until(find, f"{selector} after {after!r}")
        self.call("Input.insertText", text=text)

    def width(self, pixels: int, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, target: Path) -> None:
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def do(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def nameless(self) -> list[str]:
        """Roles of what a person can use or see but a screen reader could not name."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "link", "img", "image", "textbox", "searchbox", "checkbox", "tab", "table", "region", "navigation"}
        return [
            node["role"]["value"]
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] in roles and not node.get("name", {}).get("value", "").strip()
        ]


@contextmanager
def chromium(home: Path, more: tuple[str, ...] = ()) -> Generator[Page]:
    """A browser with a fresh profile in `home` and `more` flags, ended with the block."""
    assert BROWSER is not None
    process = subprocess.Popen(
        [BROWSER, *FLAGS, *more, f"--user-data-dir={home}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port = _port(process, home / "DevToolsActivePort")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            url = next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")
        with connect(url, max_size=None, proxy=None, ping_interval=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    for _ in range(600):
        assert process.poll() is None, f"the browser ended with status {process.returncode}"
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.1)
    raise AssertionError("the browser did not say where it listens within a minute")
