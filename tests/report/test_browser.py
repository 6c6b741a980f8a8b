"""The page in a real browser: tables that sort, widths, colours, print, and nothing that leaves it.

A test that fails leaves a screenshot of the page in its temporary folder and names it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sample import check_report, crowd, sample_report

from compress.report import Report, render_html

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
REPORTS = {"run": sample_report(), "check": check_report(), "crowd": crowd(40)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as runner:
        chromium = runner.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, report: Report, folder: Path, **settings: Any) -> Iterator[Any]:
    """The report's page; what it says on the console or asks for fails the test."""
    file = folder / "report.html"
    file.write_text(render_html(report), encoding="utf-8")
    context = browser.new_context(**settings)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(file.as_uri())
        yield page
        assert said == []
        assert asked == [file.as_uri()]
    except Exception as error:
        page.screenshot(path=folder / "failed.png", full_page=True)
        error.add_note(f"screenshot: {folder / 'failed.png'}")
        raise
    finally:
        context.close()


def column(page: Any, region: str, place: int) -> list[str]:
    """The figures of one column as shown, without the quieter lines beneath."""
    cells = page.locator(f'[aria-label="{region}"] tbody tr > :nth-child({place})')
    texts: list[str] = cells.evaluate_all("cells => cells.map(cell => cell.firstChild.data.trim())")
    return texts


def arms_by(report: Report, value: Any, reverse: bool = False) -> list[str]:
    """Names of the arms by a figure, those without it last."""
    known = [arm for arm in report.arms if value(arm) is not None]
    order = sorted(known, key=value, reverse=reverse)
    return [arm.name for arm in [*order, *(arm for arm in report.arms if value(arm) is None)]]


def latency_of(arm: Any) -> float | None:
    point = arm.best_latency(1)
    return point.median_ms if point else None


def test_a_click_sorts_numbers_as_numbers_then_back(browser: Any, tmp_path: Path) -> None:
    report = sample_report()
    with opened(browser, report, tmp_path) as page:
        before = column(page, "All arms", 1)
        head = page.locator('[aria-label="All arms"] th', has_text="Latency, batch 1")
        button = head.get_by_role("button")
        for state, expected in (
            ("ascending", arms_by(report, latency_of)),
            ("descending", arms_by(report, latency_of, reverse=True)),
            (None, before),
        ):
            button.click()
            assert head.get_attribute("aria-sort") == state
            assert column(page, "All arms", 1) == expected


def test_the_keyboard_sorts_too_and_one_column_at_a_time(browser: Any, tmp_path: Path) -> None:
    report = sample_report()
    with opened(browser, report, tmp_path) as page:
        file, name = (
            page.locator('[aria-label="All arms"] th', has_text=text) for text in ("File", "Arm")
        )
        file.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert column(page, "All arms", 1) == arms_by(report, lambda arm: arm.size_bytes)
        page.keyboard.press("Shift+Tab")
        for _ in range(5):
            page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.textContent.trim()") == "Arm"
        for _ in range(2):
            page.keyboard.press("Space")
        assert column(page, "All arms", 1) == sorted(
            (arm.name for arm in report.arms), reverse=True
        )
        assert file.get_attribute("aria-sort") is None
        assert name.first.get_attribute("aria-sort") == "descending"


def test_names_sort_by_their_numbers_and_columns_of_mixed_units_do_not_sort(
    browser: Any, tmp_path: Path
) -> None:
    with opened(browser, crowd(12), tmp_path) as page:
        names = page.locator('[aria-label="All arms"] th').first.get_by_role("button")
        names.click()
        assert column(page, "All arms", 1) == [f"arm-{place}" for place in range(12)]
    with opened(browser, check_report(), tmp_path) as page:
        assert page.locator('[aria-label="Compared"] button').count() == 0
        assert page.locator('[aria-label="All arms"] button').count() > 0


_PICTURE_WIDTHS = """all => all
  .filter((each) => each.checkVisibility())
  .map((each) => each.viewBox.baseVal.width)"""


@pytest.mark.parametrize("kind", REPORTS)
def test_no_width_scrolls_sideways(browser: Any, tmp_path: Path, kind: str) -> None:
    with opened(browser, REPORTS[kind], tmp_path) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for width in (360, 721, 768, 901, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            pictures = page.locator("section svg[role=img]:not(.bar)")
            shown = pictures.evaluate_all(_PICTURE_WIDTHS)
            assert shown
            assert {across <= 340 for across in shown} == {width <= 720}


_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = []; let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest("svg") ? style.fill : style.color);
    const [dark, light] = [luminance(ink), luminance(behind(element))].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05); count += 1;
    if (ratio < 4.5) poor.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return [count, poor];
}"""


@pytest.mark.parametrize("status", ["proven", "met", "missed"])
def test_every_text_stands_out_in_light_and_dark(browser: Any, tmp_path: Path, status: str) -> None:
    report = sample_report()
    verdict = {"proven": "improved", "met": "inconclusive", "missed": "regressed"}[status]
    comparisons = [entry.model_copy(update={"verdict": verdict}) for entry in report.comparisons]
    budget = report.budget.model_copy(update={"status": status}) if report.budget else None
    report = report.model_copy(update={"budget": budget, "comparisons": comparisons})
    with opened(browser, report, tmp_path) as page:
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for scheme, expected in (("light", "rgb(245, 246, 248)"), ("dark", "rgb(15, 20, 27)")):
            page.emulate_media(color_scheme=scheme)
            count, poor = page.evaluate(_CONTRAST)
            assert count > 300
            assert poor == []
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == expected


@pytest.mark.parametrize("kind", REPORTS)
def test_pictures_have_names_ids_are_single_and_heads_name_their_columns(
    browser: Any, tmp_path: Path, kind: str
) -> None:
    with opened(browser, REPORTS[kind], tmp_path) as page:
        assert page.locator("svg:not([aria-hidden]):not([role=img][aria-label])").count() == 0
        assert (
            page.locator(
                "th:not([scope]), button:empty, [tabindex='0']:not(pre, [aria-label])"
            ).count()
            == 0
        )
        assert page.locator("html[lang=en]").count() == 1
        assert page.locator("h1").count() == 1
        ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
        assert len(ids) == len(set(ids))


def test_paper_shows_all_in_ink_on_white(browser: Any, tmp_path: Path) -> None:
    with opened(browser, sample_report(), tmp_path, color_scheme="dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0
        page.emulate_media(media="print", color_scheme="dark")
        ink, paper = page.evaluate(
            "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
        )
        assert (ink, paper) == ("rgb(24, 32, 44)", "rgb(255, 255, 255)")
        cut = page.locator(".scroll, pre").evaluate_all(
            "all => all.filter(each => getComputedStyle(each).overflowX !== 'visible').length"
        )
        assert cut == 0
        assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_everywhere(browser: Any, tmp_path: Path, name: str) -> None:
    for report in (sample_report(), check_report()):
        *others, arm = report.arms
        compared = [
            entry.model_copy(update={"candidate": name}) if entry.candidate == arm.name else entry
            for entry in report.comparisons
        ]
        update = {"arms": [*others, arm.model_copy(update={"name": name})], "comparisons": compared}
        spoilt = report.model_copy(
            update=update | {"title": name, "command": name, "notes": [name]}
        )
        with opened(browser, spoilt, tmp_path) as page:
            assert page.title() == name
            assert page.locator("h1").inner_text() == name
            assert page.locator("script").count() == 1
            assert page.locator("img").count() == 0
            assert name in column(page, "All arms", 1)
            labels = page.locator("svg text").evaluate_all(
                "all => all.map(each => each.textContent)"
            )
            assert any(label.startswith(name[:14]) for label in labels)


def test_nothing_else_may_run(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "spoilt.html"
    source = render_html(sample_report())
    file.write_text(source.replace("</main>", "<script>document.title = 'run'</script></main>"))
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    assert page.title() == "ResNet-20 on MNIST"
    assert any("Content Security Policy" in text for text in said)
    page.close()


def test_without_script_the_page_reads_the_same(browser: Any, tmp_path: Path) -> None:
    texts = []
    for script in (True, False):
        with opened(browser, sample_report(), tmp_path, java_script_enabled=script) as page:
            texts.append(page.locator("main").inner_text().split())
    assert texts[0] == texts[1]
