"""The page in a real browser: drawn, switched, toggled, without an error on its console.

With CELO_REQUIRE_BROWSER=1 a missing browser fails these tests instead of skipping them.
"""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import synthetic

from celo.evaluate._report.page import page
from celo.evaluate._report.tables import caption, cells, headline
from celo.evaluate._score.leaderboard import leaderboard

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
REQUIRED = os.environ.get("CELO_REQUIRE_BROWSER") == "1"
WIDTHS = (390, 1440)
CHARTS = ("standings-chart", "curves", "rates", "profile", "heat", "cost")
OPTIONS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    "force-prefers-reduced-motion",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None or DRIVER is None:
        (pytest.fail if REQUIRED else pytest.skip)("Chromium and its driver are not on the PATH")
    if not REQUIRED:
        pytest.importorskip("selenium", reason="selenium is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for name in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(10)  # charts are drawn after the page has loaded
    yield driver
    driver.quit()


def written(folder, board):
    path = folder / "report.html"
    path.write_text(
        page(board, headline(board), f"{caption(board)} Commit {'0123456789' * 4}."), encoding="utf-8"
    )
    return path.as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return written(tmp_path_factory.mktemp("page"), leaderboard(synthetic.records()))


@pytest.fixture
def opened(browser, address):
    """The page, freshly loaded by a reader of light pages; its console is empty to the end."""
    resize(browser, 1440)
    prefer(browser, "light")
    load(browser, address)
    yield browser
    assert browser.get_log("browser") == []


def load(browser, address):
    browser.get(address)
    find(browser, "#legend .who")  # the last thing that is drawn
    settle(browser)


def settle(browser):
    """Wait until charts that were told to change have done so."""
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 150))")


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser, selector):
    return browser.find_element("css selector", selector)


def count(browser, selector):
    return browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector)


def lines(browser, chart):
    """The paths of a chart's lines."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map((line) => line.getAttribute('d')).join()"
    )
    return browser.execute_script(script, f"#{chart} .role-mark.mark-line path")


def names(browser):
    """The names beside the curves."""
    texts = "document.querySelectorAll('#curves .role-mark.mark-text text')"
    return browser.execute_script(f"return [...{texts}].map((text) => text.textContent)")


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)
    settle(browser)


def choose(browser, name, value):
    from selenium.webdriver.support.select import Select

    Select(find(browser, f"#{name}-choice")).select_by_value(value)
    settle(browser)


def colours(browser):
    """Of the paper, of a name of the leaderboard, and of the reference's curve."""
    script = """
    const style = (element) => getComputedStyle(element);
    const lines = [...document.querySelectorAll("#curves .role-mark.mark-line path")];
    const strokes = new Set(lines.map((line) => style(line).stroke));
    return [style(document.body).backgroundColor, style(document.querySelector("h1")).color, ...strokes];
    """
    return browser.execute_script(script)


def test_every_chart_and_table_is_drawn(opened):
    contestants, tasks = len(synthetic.CONTESTANTS), len(synthetic.TASKS)
    for name in CHARTS:
        assert count(opened, f"#{name} svg path[d]:not([d=''])") >= contestants, name
        assert find(opened, f"#{name} svg").size["width"] > 100
    assert count(opened, "#standings tbody tr[data-open]") == contestants
    assert count(opened, "#results tbody tr") == contestants
    assert count(opened, "#heat .role-mark.mark-rect path") == contestants * tasks
    assert count(opened, "#lost-runs tbody tr") == len(synthetic.DIVERGED)
    assert count(opened, "#lost-trials tbody tr") == sum(
        rate is not None and rate < 0.03 for _, _, rate in synthetic.CONTESTANTS.values()
    )
    drawn = opened.execute_script("return document.querySelector('main').innerHTML")
    for slip in ("NaN", "Infinity", "undefined"):
        assert slip not in drawn


def test_nothing_is_asked_of_the_network(opened):
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [name for name in opened.execute_script(script) if not name.startswith("data:")] == []


def test_rows_of_the_table_and_dots_of_its_chart_are_level(opened):
    script = """
    const box = (element) => element.getBoundingClientRect();
    const middle = (element) => (box(element).top + box(element).bottom) / 2;
    const rows = [...document.querySelectorAll("#standings tr[data-open]")].map(middle);
    const dots = [...document.querySelectorAll("#standings-chart .role-mark.mark-symbol path")].map(middle);
    return [rows, dots.sort((a, b) => a - b)];
    """
    rows, dots = opened.execute_script(script)
    np.testing.assert_allclose(dots, rows, atol=1.5)


def test_a_heading_sorts_table_and_chart(opened):
    _, texts = cells(leaderboard(synthetic.records()))
    shown = [row.text for row in opened.find_elements("css selector", "#standings tr[data-open] td.c3")]
    assert [text.split()[0] for text in shown] == [row[2].split()[0] for row in texts]
    dots = "return document.querySelector('#standings-chart .role-mark.mark-symbol').innerHTML"
    before = opened.execute_script(dots)
    click(opened, "#standings th[data-score=speedup] button")
    speedups = [
        float(cell.text.split()[0]) for cell in opened.find_elements("css selector", "#standings td.c6")
    ]
    assert speedups == sorted(speedups, reverse=True)
    assert opened.execute_script(dots) != before
    click(opened, "#standings th[data-score=speedup] button")
    assert find(opened, "#standings th[data-score=speedup]").get_attribute("aria-sort") == "ascending"
    test_rows_of_the_table_and_dots_of_its_chart_are_level(opened)


def test_choosing_the_task_draws_its_curves_and_rates(opened):
    charts = "curves", "rates"
    before = {name: lines(opened, name) for name in charts}
    results = find(opened, "#results").text
    choose(opened, "task", "wine_mlp")
    for name in charts:
        assert lines(opened, name) != before[name]
    assert find(opened, "#results").text != results
    click(opened, '[aria-label="Next task"]')  # wine_mlp is the last
    assert find(opened, "#task-choice").get_attribute("value") == synthetic.TASKS[0]
    assert {name: lines(opened, name) for name in charts} == before


def test_choosing_the_loss_draws_it(opened):
    before = lines(opened, "curves")
    choose(opened, "loss", "valid")
    assert lines(opened, "curves") != before


@pytest.mark.parametrize("kind", ["ratio_clock", "early", "speedup", "clock", "target", "target_clock"])
def test_profiles(opened, kind):
    before = lines(opened, "profile")
    choose(opened, "profile", kind)
    assert lines(opened, "profile") != before
    assert count(opened, "#profile .role-mark.mark-line path[d]:not([d=''])") == len(synthetic.CONTESTANTS)


def test_what_nobody_ran_at_equal_time_is_left_out_of_its_charts(opened, tmp_path):
    """As of archives that are older than those runs: no line, no dot, a dash, and last where it is sorted."""
    older = [
        dataclasses.replace(one, equal_time=None) if one.contestant != "muon" else one
        for one in synthetic.records()
    ]
    load(opened, written(tmp_path, leaderboard(older)))
    choose(opened, "profile", "ratio_clock")
    assert count(opened, "#profile .role-mark.mark-line path[d]:not([d=''])") == 2  # Adam's and Muon's
    click(opened, "#standings th[data-score=ratio_clock] button")
    cells = [cell.text for cell in opened.find_elements("css selector", "#standings td.c4")]
    assert [text for text in cells if text] == cells[:2] + ["–"] * (len(synthetic.CONTESTANTS) - 2)
    choose(opened, "heat", "ratio_clock")
    drawn = opened.execute_script("return document.querySelector('main').innerHTML")
    for slip in ("NaN", "Infinity", "undefined"):
        assert slip not in drawn


def test_kinds_are_said_beside_names(opened):
    script = "return [...document.querySelectorAll('#standings td.c1 small')].map((one) => one.textContent)"
    learned = [name for name, (*_, rate) in synthetic.CONTESTANTS.items() if rate is None]
    assert opened.execute_script(script) == ["learned"] * len(learned)


def test_choosing_the_score_of_the_tasks(opened):
    cell = "return document.querySelector('#heat .role-mark.mark-text').textContent"
    before = opened.execute_script(cell)
    choose(opened, "heat", "ratio")
    assert opened.execute_script(cell) != before


def test_crosses_stand_where_seeds_diverged(opened):
    choose(opened, "task", "quadratic")
    assert count(opened, "#curves .role-mark.mark-symbol path[d]:not([opacity='0'])") >= 3


def test_a_number_leads_to_the_configuration_behind_it(opened):
    click(opened, "#standings tr[data-open=celo] td.c3")
    assert find(opened, "#record").get_attribute("open")
    click(opened, "#record [data-task=kjv_lstm]")
    assert find(opened, "#record-title").text == "celo on kjv_lstm"
    assert '"weights_sha256"' in find(opened, "#record-config").text
    click(opened, "#close")
    opened.execute_script("document.querySelector('#heat').scrollIntoView({block: 'center'})")
    settle(opened)
    cell = find(opened, "#heat .role-mark.mark-text text")
    cell.click()
    assert find(opened, "#record-title").text.endswith(f" on {synthetic.TASKS[0]}")


def test_who_is_in_colour_is_a_choice(opened):
    assert "momentum" not in names(opened)
    click(opened, "#standings [data-toggle=momentum]")
    assert "momentum" in names(opened)
    assert find(opened, "#standings [data-toggle=momentum]").get_attribute("aria-pressed") == "true"
    click(opened, "#legend [data-toggle=momentum]")
    assert "momentum" not in names(opened)
    assert count(opened, "#curves .role-mark.mark-line path") > 0


def test_dark_by_preference_and_by_the_button(opened):
    light = colours(opened)
    click(opened, "#theme")
    dark = colours(opened)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    prefer(opened, "dark")
    opened.refresh()
    find(opened, "#legend .who")
    settle(opened)
    assert colours(opened) == dark
    click(opened, "#theme")
    assert colours(opened) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_makes_the_page_scroll_sideways(opened, address, width, scheme):
    resize(opened, width)
    prefer(opened, scheme)
    load(opened, address)
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    shown = {"heat-turned" if name == "heat" and width < 700 else name for name in CHARTS}
    for name in shown:
        box = find(opened, f"#{name} svg").rect
        assert 60 < box["width"] <= width, name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width + 1, name


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("number", [2, 42])
def test_few_and_many_contestants_on_one_task(opened, tmp_path, number, width):
    resize(opened, width)
    load(opened, written(tmp_path, leaderboard(synthetic.crowd(number))))
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    assert count(opened, "#standings tr[data-open]") == number
    for name in ("standings-chart", "curves", "rates", "cost"):
        assert count(opened, f"#{name} svg path[d]:not([d=''])") >= number, name
    boxes = [text.rect for text in opened.find_elements("css selector", "#cost .role-mark.mark-text text")]
    boxes = [box for box in boxes if box["width"]]
    assert len(boxes) == min(number, 6)
    for i, one in enumerate(boxes):
        assert all(abs(one["y"] - other["y"]) >= 10 for other in boxes[:i])


def test_what_cannot_be_drawn_is_left_out(opened, tmp_path):
    """One seed, no step times, losses of zero, nobody tuned, all runs lost."""
    losses = {"adam": [[2.0, 1.0, 0.0]], "zero": [[2.0, 0.0, 0.0]], "lost": [[np.nan] * 3]}
    some = synthetic.record("wine_mlp", "celo", seeds=1, num_steps=40)
    records = [
        dataclasses.replace(
            some, contestant=name, train_loss=np.array(x), valid_loss=np.array(x), seconds_per_step=np.nan
        )
        for name, x in losses.items()
    ]
    load(opened, written(tmp_path, leaderboard(records, smoothing=0.0)))
    assert count(opened, "#standings tr[data-open]") == 3
    drawn = opened.execute_script("return document.querySelector('main').innerHTML")
    for slip in ("NaN", "Infinity", "undefined"):
        assert slip not in drawn


@pytest.mark.parametrize(
    "evil", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\"'\\&"]
)
def test_a_name_is_text_wherever_it_is_shown(opened, tmp_path, evil):
    records = [
        dataclasses.replace(one, contestant=evil) if one.contestant == "celo" else one
        for one in synthetic.records()
    ]
    load(opened, written(tmp_path, leaderboard(records)))
    assert evil in [button.text for button in opened.find_elements("css selector", "#legend .who")]
    assert any(name.startswith(evil[:8]) for name in names(opened))
    assert count(opened, "img") == 0
