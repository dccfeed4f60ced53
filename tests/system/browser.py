"""Debian's Chromium, driven by chromedriver over plain HTTP (W3C WebDriver), and nothing else."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.ports import free_port
from tests.system.harness import wait_for

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in answers (WebDriver, 12)
DESKTOP, PHONE = (1440, 1000), (360, 780)


class Browser:
    """One window.

    Args:
        dark: the colour scheme it prefers.
        size: of the window in CSS pixels; a phone is emulated, for a window has a least width.
    """

    def __init__(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="hd-browser-")
        self._port = free_port()
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        options: dict[str, Any] = {"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={self._folder}",
            f"--window-size={size[0]},{size[1]}", "--no-proxy-server", "--disable-background-networking",
        ]}
        if size == PHONE:
            options["mobileEmulation"] = {"deviceMetrics": {"width": size[0], "height": size[1], "pixelRatio": 2.0, "mobile": True}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            wait_for("chromedriver", self._ready)
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._base = f"/session/{session['sessionId']}"
            if dark:
                self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        except BaseException:
            self.close()
            raise

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{method} {path}: {answer['error']}: {answer['message']}")
        return answer

    def close(self) -> None:
        """Ends browser and driver."""
        try:
            if hasattr(self, "_base"):
                self._call("DELETE", self._base)
        finally:
            self._driver.terminate()
            self._driver.wait(20)
            shutil.rmtree(self._folder, ignore_errors=True)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", f"{self._base}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str) -> None:
        """Goes to an address."""
        self._call("POST", f"{self._base}/url", {"url": url})

    def window(self) -> str:
        """Opens another window and goes to it; the handle of the one before."""
        before = str(self._call("GET", f"{self._base}/window"))
        self.turn_to(self._call("POST", f"{self._base}/window/new", {"type": "window"})["handle"])
        return before

    def turn_to(self, handle: str) -> None:
        """Goes to an open window."""
        self._call("POST", f"{self._base}/window", {"handle": handle})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns."""
        return self._call("POST", f"{self._base}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """The text of the first element that fits, empty for none."""
        found = self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
        return str(found)

    def shows(self, selector: str, words: str, patience_s: float = 20.0) -> str:
        """Waits until an element's text holds these words."""
        def look() -> str:
            text = self.text(selector)
            return text if words in text else ""

        return str(wait_for(f"{words!r} in {selector}", look, patience_s))

    def click(self, selector: str) -> None:
        """Clicks as a pointer does: what is covered or disabled is not clicked."""
        self._call("POST", f"{self._element(selector)}/click", {})

    def type(self, selector: str, keys: str) -> None:
        """Types into an element."""
        self._call("POST", f"{self._element(selector)}/value", {"text": keys})

    def keys(self, *keys: str) -> None:
        """Presses keys, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", f"{self._base}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def _element(self, selector: str) -> str:
        found = self._call("POST", f"{self._base}/element", {"using": "css selector", "value": selector})
        return f"{self._base}/element/{found[ELEMENT]}"

    def complaints(self) -> list[str]:
        """What the console has of errors and refused resources since the last call."""
        entries = self._call("POST", f"{self._base}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._base}/screenshot")))
