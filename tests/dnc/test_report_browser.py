"""The report of a run in a browser: no network, sorting, keys, a phone, no scripts."""

from __future__ import annotations

import pytest

from otcluster.dnc import load_run, report, train
from tests.dnc.conftest import small, write_images
from tests.dnc.pages import BREAKOUT, TAG, read


def test_of_many_classes_the_matrix_names_what_each_is_mostly_taken_for(tmp_path, opened):
    names = [f"class {at:02}" for at in range(61)]
    write_images(tmp_path / "images" / "train", names, n=1)
    write_images(tmp_path / "images" / "test", names, n=1, seed=1)
    train(small(tmp_path / "images", "head.n_subcentroids=1"), tmp_path / "run")
    path = report(load_run(tmp_path / "run"), tmp_path / "report", n_test=3)
    page, said = read(path)
    assert "Mostly taken for" in page.text
    failures = [each for each in said["explained"] if each["group"] == "failure"]
    assert len(failures) == 3
    shown = opened(path)
    for each in failures:
        row = shown.locator(".sortable tbody tr").filter(has_text=each["true"]).filter(has_text=f"{each['class']} (1)")
        assert row.locator("a").count() == 1
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_browser_shows_all_pictures_and_asks_no_network(small_report, hostile_report, opened):
    for path in (small_report, hostile_report[0]):
        page = opened(path)
        assert page.locator("img").count() > 10
        assert page.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert {TAG, BREAKOUT, "owl"} == set(page.locator("section.class h3").all_inner_texts())
    assert page.evaluate("document.querySelector('.swatch.for').getBoundingClientRect().width") > 5  # styles are allowed


def test_the_confusion_matrix_is_sorted_by_click_and_by_key(small_report, opened):
    page = opened(small_report)

    def column(at):
        return page.evaluate(f"[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[{at}].textContent)")

    heads = page.locator(".sortable thead th[aria-sort]")
    before = column(0)
    assert before == ["cat", "dog", "owl"]
    heads.nth(0).locator("button").click()
    assert (column(0), heads.nth(0).get_attribute("aria-sort")) == (before, "ascending")
    heads.nth(0).locator("button").click()
    assert (column(0), heads.nth(0).get_attribute("aria-sort")) == (before[::-1], "descending")
    heads.nth(2).locator("button").focus()
    page.keyboard.press("Enter")
    shares = [float(text.rstrip("%")) for text in column(2)]
    assert shares == sorted(shares, reverse=True)
    assert [heads.nth(at).get_attribute("aria-sort") for at in range(3)] == ["none", "none", "descending"]
    page.keyboard.press("Space")
    assert [float(text.rstrip("%")) for text in column(2)] == sorted(shares)
    page.keyboard.press("Tab")  # to the next column
    page.keyboard.press("Enter")
    counts = [int(text or 0) for text in column(3)]
    assert counts == sorted(counts, reverse=True)
    assert heads.nth(3).get_attribute("aria-sort") == "descending"
    assert page.inner_text("#sorted").endswith("descending")


def test_classes_are_looked_for_and_keys_reach_the_content(small_report, opened):
    page = opened(small_report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.fill("#filter", "OW")
    assert page.locator("section.class:visible h3").all_inner_texts() == ["owl"]
    assert page.inner_text("#filtered") == "1 of 3 classes"
    page.fill("#filter", "")
    assert page.locator("section.class:visible").count() == 3


def test_a_number_in_the_matrix_leads_to_its_failure(small_report, opened):
    _, said = read(small_report)
    failures = [each for each in said["explained"] if each["group"] == "failure"]
    assert failures
    page = opened(small_report)
    links = page.locator(".sortable td a")
    assert links.count() == len({(each["true"], each["class"]) for each in failures})
    links.nth(0).focus()
    page.keyboard.press("Enter")
    assert page.locator("article:target").inner_text().startswith("✗ wrong")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(small_report, hostile_report, opened, scheme):
    for path in (small_report, hostile_report[0]):
        page = opened(path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        bright = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        assert bright == (scheme == "light")


def test_it_can_be_read_without_scripts(small_report, opened):
    page = opened(small_report, java_script_enabled=False)
    assert page.locator("article").first.is_visible()
    assert not page.locator(".filter").is_visible()
