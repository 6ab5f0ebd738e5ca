"""The blind sheet in headless Chromium, from a file: answers stay in the browser and are saved."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.lab.blind.test_sheet import sheet
from xrec.config.shared import StorageConfig
from xrec.lab.blind.sheet import read_answers, write_sheet
from xrec.storage import open_location

webdriver: Any = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed (extra test): the page is not tested"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium and chromedriver are not on PATH (Debian: chromium-driver): "
    "the page is not tested",
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def click(browser: Any, name: str, value: int) -> None:
    browser.execute_script(
        "document.querySelector(`input[name='${arguments[0]}'][value='${arguments[1]}']`).click()",
        name,
        value,
    )


def progress(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('progress').textContent"))


def test_answers_are_kept_over_a_reload_and_saved_to_a_file_that_is_read_back(
    browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    made = sheet(num_pairs=2, questions={"true": "Is it true?", "good": "Is it good?"})
    write_sheet(open_location(str(tmp_path)), made)
    browser.get((tmp_path / "sheet.html").as_uri())
    assert progress(browser) == "0 of 12 answered"
    click(browser, "1/1/true", 4)
    click(browser, "2/3/good", 2)
    browser.execute_script("document.getElementById('save').click()")
    assert "name" in progress(browser)  # who judges must say who they are
    browser.find_element("id", "judge").send_keys("Anna B.")
    browser.refresh()
    wait = WebDriverWait(browser, 15)
    wait.until(lambda _: progress(browser) == "2 of 12 answered", message=progress(browser))
    click(browser, "1/1/true", 5)  # a change of mind
    browser.execute_script("document.getElementById('save').click()")
    path = tmp_path / "answers-Anna-B-.json"
    wait.until(lambda _: path.exists() and path.stat().st_size)
    assert json.loads(path.read_text())["judge"] == "Anna B."
    rows = read_answers([str(path)], made, StorageConfig()).to_pylist()
    assert {(row["entry"], row["question"], row["rating"]) for row in rows} == {
        (made.pairs[0].entries[0], "true", 5),
        (made.pairs[1].entries[2], "good", 2),
    }
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_answers_given_in_one_tab_are_seen_in_another(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    write_sheet(open_location(str(tmp_path)), sheet(num_pairs=2))
    address = (tmp_path / "sheet.html").as_uri()
    browser.get(address)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(address)
    question = browser.execute_script("return questions[0]")
    click(browser, f"1/1/{question}", 4)
    browser.switch_to.window(first)
    wait = WebDriverWait(browser, 15)
    wait.until(lambda _: progress(browser).startswith("1 of "), message=progress(browser))


def test_a_browser_that_keeps_nothing_says_so(browser: Any, tmp_path: Path) -> None:
    write_sheet(open_location(str(tmp_path)), sheet(num_pairs=2))
    browser.get((tmp_path / "sheet.html").as_uri())
    browser.execute_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
    question = browser.execute_script("return questions[0]")
    click(browser, f"1/1/{question}", 4)
    assert progress(browser).startswith("1 of ")
    assert "save them before you leave" in progress(browser)
