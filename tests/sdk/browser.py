"""Chromium without a window, driven by the protocol of its own developer tools; nothing but `websockets` is needed.

It is the one on the machine, or the one that `tests/tools/chromium.sh` fetched. Nothing is told of a page but what a person
would see, and what the browser itself complains about.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from stack import ROOT, START_SECONDS
from websockets.sync.client import connect

FETCHED = ROOT / ".browser" / "chromium"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# What takes a moment on an idle machine takes far longer on a busy one.
PATIENCE_SECONDS = 60

# As root it has no sandbox, and it loads nothing but the gateway's own page.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]


def program() -> str | None:
    fetched = FETCHED / "root/usr/lib/chromium/chromium-headless-shell"
    if fetched.exists():
        return str(fetched)
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one tab, from `with` to its end."""

    def __enter__(self) -> "Browser":
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-browser-", ignore_cleanup_errors=True)
        environment = dict(os.environ)
        if (FETCHED / "lib").exists():
            environment["LD_LIBRARY_PATH"] = str(FETCHED / "lib")
            environment["FONTCONFIG_FILE"] = str(FETCHED / "fonts.conf")
        self._open = contextlib.ExitStack()
        log = Path(self._folder.name) / "log"
        self._process = subprocess.Popen(
            [program(), *FLAGS, f"--user-data-dir={self._folder.name}/profile", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log.open("wb"),
            env=environment,
        )
        try:
            address = self._address(log)
            connecting = connect(address, max_size=None, proxy=None, open_timeout=PATIENCE_SECONDS)
            self._socket = self._open.enter_context(connecting)
            self._answers: dict[int, dict] = {}
            self._n_asked = 0
            # What the browser said by itself: method and parameters.
            self.events: list[tuple[str, dict]] = []
            self._news = threading.Condition()
            self._session = None
            threading.Thread(target=self._read, daemon=True).start()
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self, log: Path) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace")):
                return found[1]
            time.sleep(0.05)
        raise RuntimeError(f"the browser did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def _read(self):
        try:
            for text in self._socket:
                message = json.loads(text)
                with self._news:
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append((message["method"], message["params"]))
                    self._news.notify_all()
        except Exception:  # The browser was ended.
            pass

    def ask(self, method: str, **parameters) -> dict:
        with self._news:
            self._n_asked += 1
            number = self._n_asked
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        with self._news:
            assert self._news.wait_for(lambda: number in self._answers, PATIENCE_SECONDS), method
            answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def open(self, url: str):
        self.ask("Page.navigate", url=url)

    def run(self, script: str):
        """What an expression is in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in result, f"{script}: {result}"
        return result["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What a person sees there; nothing if it is hidden or not there."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def wait(self, script: str):
        """Until an expression is true in the page."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.run(script):
            assert time.monotonic() < deadline, f"{script} is never true:\n{self.text()}"
            time.sleep(0.05)

    def see(self, words: str, selector: str = "body"):
        self.wait(f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(words)})")

    def see_no(self, words: str, selector: str = "body"):
        self.wait(f"!(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(words)})")

    def type(self, text: str):
        """Into what has the focus, as by the keyboard."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str):
        code = {"Enter": 13, "Tab": 9}[key]
        text = {"Enter": "\r"}.get(key)
        down = {"text": text} if text else {}
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **names, **down)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **names)

    def look(self, width: int, height: int, scheme: str = "light"):
        """The size of the window, and whether it is dark."""
        mobile = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path):
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors, warnings and broken rules that the browser noted."""
        found = []
        for method, said in list(self.events):
            if method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(f"console: {said['args']}")
            elif method == "Runtime.exceptionThrown":
                found.append(f"exception: {said['exceptionDetails']}")
            elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                entry = said["entry"]
                found.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
            elif method == "Audits.issueAdded" and said["issue"]["code"] == "ContentSecurityPolicyIssue":
                found.append(f"policy: {said['issue']['details']}")
        return found

    def requests(self) -> list[str]:
        """Everything that the page asked for."""
        return [said["request"]["url"] for method, said in list(self.events) if method == "Network.requestWillBeSent"]

    def __exit__(self, *_):
        self._open.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()
