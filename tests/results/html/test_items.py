"""Pictures of test items in a real Chromium: live patches behind a slider, and items that are missed."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic_records
from PIL import Image
from playwright.sync_api import Page, expect
from synthetic_records import MARKUP

from results.pages.report import Page as PageOf
from results.pages.report import build
from results.records.items import Items, write_items

OpenPage = Callable[..., tuple[Page, list[str]]]
SIDE, BLOCKS, FOLLOWED = 4, (1, 3), np.arange(30) * 3


def red(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), (250, 10, 10), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pictures are red, and a class is called a script."""
    directory = tmp_path_factory.mktemp("items") / "a"
    synthetic_records.write_study(
        directory, ("none", "random", "cropr"), (0.65, 0.5), seeds=2, num_items=100, speed=False
    )
    synthetic_records.write_live(directory, FOLLOWED, BLOCKS, SIDE)
    names = [MARKUP, *"123456789"]
    write_items(directory, Items(names, dict.fromkeys(FOLLOWED.tolist(), red(16))))
    build([directory], page=PageOf())
    return directory


def colours(page: Page, place: int) -> np.ndarray:
    """[SIDE, SIDE] whether each patch of a picture looks as red as it is; a place that is off its middle, as a stroke
    goes through that."""
    box = page.locator("form.live").first.locator("td svg").nth(place)
    shot = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(int)
    h, w = shot.shape[:2]
    at = [(np.array([int((i + 0.3) * side / SIDE) for i in range(SIDE)])) for side in (h, w)]
    seen = shot[np.ix_(*at)]
    return (seen[..., 0] > 200) & (seen[..., 1] < 60)


def live(study: Path, method: str, item: int, number: int) -> np.ndarray:
    """[SIDE, SIDE] behind so many reductions."""
    with np.load(study / "runs" / f"{method}-0.5-s0" / "kept.npz") as kept:
        return (kept["level"][kept["item"].tolist().index(item)] >= number).reshape(SIDE, SIDE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_slider_takes_patches_away_by_keyboard(open_page: OpenPage, study: Path, scheme: str) -> None:
    page, said = open_page(study / "report" / "index.html", color_scheme=scheme)
    form = page.get_by_role("form", name="a, at 0.5 of the dense MACs")
    slider = form.get_by_role("slider")
    names = [text.split(" at ")[0] for text in form.locator("thead th").all_text_contents()[1:]]
    items = [int(re.search(r"item (\d+)", text)[1]) for text in form.locator("tbody th").all_text_contents()]
    assert sorted(names) == ["Cropr", "Random"] and items == [3 * (i * 30 // 6) for i in range(6)]
    slider.focus()
    for number, label in ((2, "block 3"), (1, "block 1"), (0, "no block: all patches"), (1, "block 1")):
        expect(slider).to_have_value(str(number))
        expect(slider).to_have_attribute("aria-valuetext", label)
        expect(form.locator("output")).to_have_text(label)
        for row, item in enumerate(items[:2]):
            for column, name in enumerate(names):
                wanted = live(study, name.lower(), item, number)
                assert (colours(page, row * len(names) + column) == wanted).all() and wanted.all() == (number == 0)
        page.keyboard.press("ArrowLeft" if slider.input_value() != "0" else "ArrowRight")
    assert not said, said


def test_pictures_have_words_and_markup_stays_text(open_page: OpenPage, study: Path) -> None:
    page, said = open_page(study / "report" / "index.html", viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    pictures = page.locator("main svg[role=img]")
    assert pictures.count() > 20
    assert all(pictures.nth(i).get_attribute("aria-label") for i in range(pictures.count()))
    first = page.locator("form.live").first.locator("td svg").first.get_attribute("aria-label")
    assert re.fullmatch(r"\w+ at 0.5, item 0: of 16 patches 12 → 8 are live behind blocks 1, 3", first)
    expect(page.locator("form.live tbody th").first).to_have_text(f"item 0: {MARKUP}")
    cards = page.locator(".cards li")
    assert cards.count() > 2 and cards.first.locator("svg").is_visible()
    assert not said, said  # no dialog


def test_without_a_script_the_last_block_is_shown(open_page: OpenPage, study: Path) -> None:
    page, said = open_page(study / "report" / "index.html", java_script_enabled=False)
    assert not page.locator("form.live label").first.is_visible()
    names = [text.split(" at ")[0] for text in page.locator("form.live").first.locator("thead th").all_text_contents()]
    for column, name in enumerate(names[1:]):
        assert (colours(page, column) == live(study, name.lower(), 0, len(BLOCKS))).all()
    assert not said
