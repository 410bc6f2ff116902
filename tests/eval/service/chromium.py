"""Debian's Chromium, driven by its own protocol: what is clicked and typed are real events of its input queue."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

BINARY = shutil.which("chromium")
KEYS = {"Escape": 27, "Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowRight": 39, "ArrowUp": 38, "ArrowLeft": 37}


class Page:
    """One tab. `requests` are the addresses that it asked for, `errors` what its console complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.numbers = socket, itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command."""
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await asyncio.wait_for(self.socket.receive_json(), 30)
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]))
            if message.get("method") == "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])

    async def value(self, script: str) -> Any:
        """What a JavaScript expression gives; of a promise what it resolves to."""
        answer = await self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + 20
        while not await self.value(script):
            assert time.monotonic() < end, script
            await asyncio.sleep(0.05)

    async def visit(self, url: str) -> None:
        """Go to an address and wait for its page."""
        await self.do("Page.navigate", url=url)
        await self.until("location.protocol === 'http:' && document.readyState === 'complete'")

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code = {
            "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper())),
            "key": key,
            "code": key if key in KEYS else "",
        }
        text = {"text": "\r"} if key == "Enter" else {} if key in KEYS else {"text": key}
        await self.do("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        await self.do("Input.dispatchKeyEvent", type="keyUp", **code)

    async def write(self, text: str) -> None:
        """Type into what has the focus."""
        await self.do("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, which must not be covered by another."""
        where = f"document.querySelector({json.dumps(selector)})"
        await self.value(f"{where}.scrollIntoView({{block: 'center'}})")
        x, y, free = await self.value(
            f"(() => {{ const b = {where}.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2;"
            f" return [x, y, {where}.contains(document.elementFromPoint(x, y))]; }})()"
        )
        assert free, f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            await self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def screen(self, width: int, height: int, *, dark: bool) -> None:
        """Show the page on a screen of that size."""
        phone = width < 760
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = "dark" if dark else "light"
        await self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def photograph(self, path: Path) -> None:
        """Write what is on the screen as a PNG."""
        shot = await self.do("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Page]:
    """An empty tab of a browser whose profile lies in `folder`."""
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--lang=en",
    ]
    command = [str(BINARY), *flags, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready, end = folder / "DevToolsActivePort", time.monotonic() + 60
        while not (ready.is_file() and ready.read_text().count("\n")):
            assert process.poll() is None
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        port = ready.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tab = next(tab for tab in await answer.json() if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.do(f"{domain}.enable")
                yield page
    finally:
        process.terminate()
        process.wait(20)
