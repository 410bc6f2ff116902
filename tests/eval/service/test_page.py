"""The page: one file that asks nobody else, and in a real browser it does what it offers, by mouse and by keyboard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.build import build_gallery
from eval.search.refine import FOLD
from eval.service.page import policy, service_page
from tests.eval.service import chromium
from tests.eval.service.chromium import Page
from vlp.models.release import Release

in_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="needs Debian's chromium")
KEYS = "[...document.querySelectorAll('#grid li')].map(one => one.match.key)"
# Text that is less than 4.5 times as bright, or as dark, as what it stands on: WCAG 2.2, success criterion 1.4.3
FAINT = """(() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = one => {
    for (; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if ((colour[3] ?? 1) > .5) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('main *')].filter(one => one.checkVisibility() &&
    [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())).map(one => {
      const [a, b] = [light(numbers(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
      return [one.textContent.slice(0, 30), (a + .05) / (b + .05)];
    }).filter(([, ratio]) => ratio < 4.5);
})()"""


def test_the_page_asks_nobody_else_and_runs_its_own_script_alone(address: str) -> None:
    answer = requests.get(address)
    html = answer.text
    assert html == service_page()
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+|@import|url\(|<link(?! rel=\"icon\" href=\"data:)", html)
    assert not re.findall(r"\son\w+=\"|innerHTML|eval\(", html)
    allowed = answer.headers["Content-Security-Policy"]
    assert allowed == policy(html)
    assert "default-src 'none'" in allowed
    assert len(re.findall(r"'sha256-[\w+/]+='", allowed)) == html.count("<script>") == 1


def browse(folder: Path, visit: Callable[[Page], Awaitable[None]]) -> None:
    async def visited() -> None:
        async with chromium.opened(folder) as page:
            await visit(page)
            assert not page.errors

    asyncio.run(visited())


def best(address: str, k: int, files: Any = None, **form: str) -> list[str]:
    answer = requests.post(f"{address}/search", {**form, "k": str(k)}, files=files)
    return [match["key"] for match in answer.json()["matches"]]


async def shows(page: Page, keys: list[str]) -> None:
    """Wait until the cards are these, in this order."""
    await page.until(f"JSON.stringify({KEYS}) === JSON.stringify({keys})")


@in_chromium
@pytest.mark.slow
def test_searching_by_mouse_and_by_keyboard(index: Path, serve: Any, samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "asked.png").write_bytes(samples[5].image)

    async def visit(page: Page) -> None:
        await page.visit(f"{address}/#gold%20square")
        await shows(page, best(address, 24, text="gold square"))  # a link to a question is answered
        await page.press("Escape")
        await shows(page, [])
        await page.write("红圆")
        await shows(page, texts := best(address, 24, text="红圆"))
        by_key = {sample.key: sample for sample in samples}
        alt = await page.value("document.querySelector('#grid img').alt")
        assert alt == by_key[texts[0]].captions["en"]

        await page.click("#grid li:nth-child(3) .do button")  # find similar
        third = by_key[texts[2]].image
        await shows(page, similar := best(address, 24, files={"image": third}))
        await page.click("#steer")
        await page.write("blue")
        await page.press("Enter")
        await page.until("document.querySelectorAll('#chips li').length === 2 && !document.querySelector('.busy')")
        await page.click("#grid li:nth-child(1) .do button:nth-child(3)")  # less like this
        await page.until("document.querySelectorAll('#chips li').length === 3")
        await page.click("#chips li:nth-child(3) button")
        await shows(page, best(address, 24, files={"image": third}, more="blue", strength="0.5"))
        await page.click("#chips li:nth-child(2) button")
        await shows(page, similar)

        await page.press("Escape")
        await page.value("document.activeElement.blur()")
        await page.press("/")
        await page.write("pink square")
        await shows(page, pink := best(address, 24, text="pink square"))
        for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft"):
            await page.press(key)
        assert await page.value("document.activeElement.match.key") == pink[1]
        await page.press("s")
        await shows(page, best(address, 24, files={"image": by_key[pink[1]].image}))

        await page.press("Escape")
        await page.value("document.getElementById('text').value = 'pink square'")
        await page.click("#where")
        await page.write("art")
        await page.until("document.querySelectorAll('#offers option').length === 2")
        assert await page.value("document.querySelector('#offers option').value") == "artist = 'artist 0'"
        await page.value("document.getElementById('where').value = ''")
        await page.write("artist = 'artist 1'")
        await page.press("Enter")
        await shows(page, half := best(address, 24, text="pink square", where="artist = 'artist 1'"))
        assert half == [key for key in pink if by_key[key].metadata["artist"] == "artist 1"]
        await page.visit(await page.value("location.href"))  # a link to the question keeps the filter
        await shows(page, half)

        node = (await page.do("DOM.getDocument"))["root"]["nodeId"]
        file = (await page.do("DOM.querySelector", nodeId=node, selector="#file"))["nodeId"]
        await page.press("Escape")
        await page.do("DOM.setFileInputFiles", nodeId=file, files=[str(tmp_path / "asked.png")])
        await shows(page, best(address, 24, files={"image": samples[5].image}))
        outside = [url for url in page.requests if not url.startswith((address, "data:", "blob:"))]
        assert not outside

    with serve(index) as address:
        browse(tmp_path / "profile", visit)


@in_chromium
@pytest.mark.slow
def test_matches_without_small_pictures_are_searched_with_too(
    release: Release, shards: Path, serve: Any, tmp_path: Path
) -> None:
    index = build_gallery(release, str(shards), tmp_path / "index", kind=Flat(), thumbnail=0).folder

    async def visit(page: Page) -> None:
        await page.visit(f"{address}/#gold%20square")
        await shows(page, asked := best(address, 24, text="gold square"))
        await page.click("#grid li:nth-child(2) .do button")  # find similar
        await shows(page, similar := best(address, 24, like=asked[1]))
        assert similar[0] == asked[1]
        await page.click("#grid li:nth-child(5) .do button:nth-child(3)")  # less like this
        await shows(page, best(address, 24, like=asked[1], less_like=similar[4]))
        await page.value("location.hash = 'blue'")
        await page.until("document.getElementById('text').value === 'blue'")

    with serve(index) as address:
        browse(tmp_path / "profile", visit)


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_is_legible_and_names_what_it_offers(
    index: Path, serve: Any, tmp_path: Path, *, width: int, dark: bool
) -> None:
    async def visit(page: Page) -> None:
        await page.screen(width, 844, dark=dark)
        await page.visit(f"{address}/#red%20circle")
        await page.until("document.querySelectorAll('#grid li').length === 24")
        await page.click("#grid li:nth-child(2) .do button:nth-child(2)")
        await page.until("document.querySelectorAll('#chips li').length === 1")
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        assert await page.value(FAINT) == []
        small = (
            "[...document.querySelectorAll('button')].filter(b => b.checkVisibility() && b.offsetHeight < 44).length"
        )
        assert await page.value(small) == 0
        await page.do("Accessibility.enable")
        nodes = (await page.do("Accessibility.getFullAXTree"))["nodes"]
        roles = {"button", "textbox", "searchbox", "combobox", "slider", "image", "list"}
        named = [(n["role"]["value"], n["name"]["value"]) for n in nodes if n.get("role", {}).get("value") in roles]
        assert {"button", "searchbox", "textbox", "combobox", "slider", "image"} <= {role for role, _ in named}
        assert [role for role, name in named if not name and role != "image"] == []
        assert sum(bool(name) for role, name in named if role == "image") >= 24

    with serve(index) as address:
        browse(tmp_path / "profile", visit)


@in_chromium
@pytest.mark.slow
def test_near_identical_matches_are_one_that_opens(index: Path, serve: Any, tmp_path: Path) -> None:
    async def visit(page: Page) -> None:
        await page.visit(f"{address}/#red%20circle")
        await shows(page, every := best(address, 24, text="red circle"))
        await page.click("#fold")
        await shows(page, folded := best(address, 24, text="red circle", fold=str(FOLD)))
        assert len(folded) < len(every)
        rows = requests.post(f"{address}/search", {"text": "red circle", "k": "24", "fold": str(FOLD)}).json()[
            "matches"
        ]
        at = next(place for place, row in enumerate(rows) if row["folded"])
        alike = [one["key"] for one in rows[at]["alike"]]
        button = f"document.querySelector('#grid li:nth-child({at + 1}) .alike')"
        assert await page.value(f"{button}.textContent") == f"+{rows[at]['folded']} alike"
        opened = [*folded[: at + 1], *alike, *folded[at + 1 :]]
        await page.click(f"#grid li:nth-child({at + 1}) .alike")
        await shows(page, opened)
        assert await page.value(f"{button}.ariaExpanded") == "true"
        await page.value(f"document.querySelector('#grid li:nth-child({at + 1})').focus()")
        await page.press("a")
        await shows(page, folded)

    with serve(index) as address:
        browse(tmp_path / "profile", visit)


@in_chromium
@pytest.mark.slow
def test_the_page_asks_for_the_key_and_then_searches(index: Path, serve: Any, tmp_path: Path) -> None:
    async def visit(page: Page) -> None:
        await page.visit(f"{address}/#red")
        await page.until("!document.getElementById('key').hidden")
        assert "X-API-Key" in await page.value("document.getElementById('status').textContent")
        await page.click("#secret")
        await page.write("sesame")
        await page.press("Enter")
        await page.until("document.querySelectorAll('#grid li').length === 24")
        assert await page.value("document.getElementById('key').hidden")
        page.errors.clear()  # the browser itself counts the answer 401 as one

    with serve(index, key="sesame") as address:
        browse(tmp_path / "profile", visit)
