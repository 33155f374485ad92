"""The page in a real browser: drawn, switched, toggled, without an error on its console."""

import dataclasses
import shutil

import numpy as np
import pytest
import synthetic

from celo.evaluate._report.page import page
from celo.evaluate._report.tables import caption, cells, headline
from celo.evaluate._score.leaderboard import leaderboard

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WIDTHS = (390, 1280, 1920)
OPTIONS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "hide-scrollbars"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    "force-prefers-reduced-motion",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None or DRIVER is None:
        pytest.skip("no Chromium and its driver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for name in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    board = leaderboard(synthetic.records())
    path.write_text(page(board, headline(board), caption(board)), encoding="utf-8")
    return path.as_uri()


def awkward():
    """Where there is little to show: one seed, no step times, losses of zero, nobody tuned, all runs lost."""
    loss = {"adam": [[2.0, 1.0, 0.0]], "zero": [[2.0, 0.0, 0.0]], "lost": [[np.nan] * 3]}
    some = synthetic.record("wine_mlp", "celo", seeds=1, num_steps=40)
    unknown = {"seconds_per_step": np.nan, "config": {}}
    return [
        dataclasses.replace(
            some, contestant=name, train_loss=np.array(values), valid_loss=np.array(values), **unknown
        )
        for name, values in loss.items()
    ]


@pytest.fixture
def opened(browser, address):
    """The page, freshly loaded by a reader of light pages; its console is empty to the end."""
    resize(browser, 1280)
    prefer(browser, "light")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser, selector):
    return browser.find_element("css selector", selector)


def count(browser, selector):
    return len(browser.find_elements("css selector", selector))


def paper(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_every_figure_and_table_is_drawn(opened):
    contestants, tasks = len(synthetic.CONTESTANTS), len(synthetic.TASKS)
    assert count(opened, "#standings tbody tr") == contestants
    assert count(opened, "#results tbody tr") == contestants
    assert count(opened, "#heat tbody td") == contestants * tasks
    assert count(opened, "#losses table:not(#lost-trials) tbody tr") == len(synthetic.DIVERGED)
    assert count(opened, "#lost-trials tbody tr") == sum(
        rate is not None and rate < 0.03 for _, _, rate in synthetic.CONTESTANTS.values()
    )
    for name in ("curves", "rates", "profile", "cost"):
        assert count(opened, f"#{name} svg .series") >= 4, name
        assert find(opened, f"#{name} svg").get_attribute("aria-label")
    drawn = opened.execute_script("return document.querySelector('main').innerHTML")
    for slip in ("NaN", "Infinity", "undefined"):
        assert slip not in drawn


def test_the_page_and_the_table_round_alike(opened):
    _, rows = cells(leaderboard(synthetic.records()))
    shown = [row.text for row in opened.find_elements("css selector", "#standings .number")]
    assert [text.split()[0] for text in shown] == [row[2].split()[0] for row in rows]


def test_switching_the_task_draws_its_curves(opened):
    before = find(opened, "#curves").get_attribute("innerHTML")
    find(opened, '[aria-label="Next task"]').click()
    assert find(opened, "#task-select").get_attribute("value") == synthetic.TASKS[1]
    assert find(opened, "#curves").get_attribute("innerHTML") != before
    assert synthetic.TASKS[1] in find(opened, "#curves svg").get_attribute("aria-label")
    find(opened, "#heat [data-go=wine_mlp]").click()
    assert "wine_mlp" in find(opened, "#curves svg").get_attribute("aria-label")


@pytest.mark.parametrize("choice", ["log:false", "time:true", "split:valid"])
def test_each_choice_changes_the_curves_and_says_that_it_is_made(opened, choice):
    before = find(opened, "#curves").get_attribute("innerHTML")
    button = find(opened, f'[data-choice="{choice}"]')
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert find(opened, "#curves").get_attribute("innerHTML") != before


@pytest.mark.parametrize("kind", ["ratio_clock", "speedup", "clock", "target", "target_clock"])
def test_profiles(opened, kind):
    find(opened, f'[data-choice="profile:{kind}"]').click()
    assert count(opened, "#profile svg .series") == len(synthetic.CONTESTANTS)


def test_a_number_leads_to_the_configuration_behind_it(opened):
    find(opened, "#standings [data-sum=celo]").click()
    assert find(opened, "#record").get_attribute("open")
    find(opened, "#record [data-task=kjv_lstm]").click()
    assert find(opened, "#record-title").text == "celo on kjv_lstm"
    assert '"weights_sha256"' in find(opened, "#record pre").text
    find(opened, "#close").click()
    find(opened, '#heat [data-open=adam][data-task="quadratic"]').click()
    assert find(opened, "#record-title").text == "adam on quadratic"


def test_who_is_in_colour_is_a_choice(opened):
    named = "#curves .end[data-open=momentum]"
    assert count(opened, named) == 0
    find(opened, "#standings [data-toggle=momentum]").click()
    assert count(opened, named) == 1
    pressed = find(opened, "#standings [data-toggle=momentum]")
    assert pressed.get_attribute("aria-pressed") == "true"
    assert opened.switch_to.active_element == pressed, "the keyboard's place is lost"


def test_the_keyboard_reads_values_off_the_curves(opened):
    plot = find(opened, "#curves")
    opened.execute_script("arguments[0].focus()", plot)
    plot.send_keys("\ue014" * 5)  # arrow right
    assert "adam" in find(opened, "#curves .tip").text


def test_dark_by_preference_and_by_the_button(opened):
    light = paper(opened)
    find(opened, "#theme").click()
    dark = paper(opened)
    assert dark != light
    prefer(opened, "dark")
    opened.refresh()
    assert paper(opened) == dark
    find(opened, "#theme").click()
    assert paper(opened) == light


def test_what_cannot_be_drawn_is_left_out(opened, tmp_path):
    board = leaderboard(awkward(), smoothing=0.0)
    path = tmp_path / "report.html"
    path.write_text(page(board, headline(board), caption(board)), encoding="utf-8")
    opened.get(path.as_uri())
    assert count(opened, "#standings tbody tr") == 3
    find(opened, '[data-choice="log:false"]').click()
    find(opened, '[data-choice="time:true"]').click()
    drawn = opened.execute_script("return document.querySelector('main').innerHTML")
    for slip in ("NaN", "Infinity", "undefined"):
        assert slip not in drawn


@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    resize(opened, width)
    opened.refresh()
    assert opened.execute_script("return document.documentElement.scrollWidth") == width
    for name in ("curves", "rates", "profile", "cost"):
        assert find(opened, f"#{name} svg").size["width"] <= width


def test_many_contestants_stand_in_tables_that_fit_and_under_names_that_can_be_read(opened, tmp_path):
    board = leaderboard(synthetic.crowd(40))
    path = tmp_path / "report.html"
    path.write_text(page(board, headline(board), caption(board)), encoding="utf-8")
    opened.get(path.as_uri())
    for table in ("standings", "results", "heat"):
        box = opened.execute_script("return document.getElementById(arguments[0]).parentNode", table)
        assert opened.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", box) == 0
    boxes = [text.rect for text in opened.find_elements("css selector", "#cost .end")]
    assert len(boxes) > 8
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = abs(one["y"] - other["y"]) >= 11
            apart |= one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
            assert apart, (one, other)
