"""The page in headless Chromium: a pair is picked by keyboard, its text and evidence are shown."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.xrec.serve.local_endpoint import ITEMS, USERS, dataset_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium and chromedriver are not on PATH (Debian: chromium-driver): "
    "the page is not tested",
)
TAB, ENTER, BACKSPACE = "\ue004", "\ue007", "\ue003"

# Responds instead of the endpoint, with an evidence and with the events of a stream.
ANSWER = """
const [evidence, events] = arguments;
const sent = events.map(([name, data]) => `event: ${name}\\ndata: ${JSON.stringify(data)}\\n\\n`);
const answers = {evidence: JSON.stringify(evidence), stream: sent.join('')};
window.fetch = async (path) =>
  new Response(answers[path.split('/').pop()] ?? JSON.stringify({explanations: []}));
"""


class Page:
    def __init__(self, driver: Any):
        self.driver = driver
        self.run = driver.execute_script

    def wait(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 60).until(lambda _: condition())

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def texts(self, selector: str) -> list[str]:
        found = "return [...document.querySelectorAll(arguments[0])].map((row) => row.textContent)"
        return list(self.run(found, selector))

    def is_idle(self) -> bool:
        return bool(self.run("return document.querySelector('#explain[aria-busy=false]')"))

    def press(self, *keys: str) -> None:
        """Type into the element that has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """Return the ID of the element that has the focus."""
        return str(self.run("return document.activeElement.id"))


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, endpoint):
    """The endpoint's page, with the best items of the first user."""
    page = Page(driver)
    driver.get_log("performance")
    driver.get(endpoint.url)
    page.wait(lambda: page.text("best-items"))
    return page


def test_page_shows_the_text_and_evidence_of_a_pair_by_keyboard_alone(page, endpoint, town):
    """No other test asks for this pair. The page only sends requests to the endpoint."""
    dataset, pair = dataset_of(town), {"user_id": USERS[7], "item_id": ITEMS[6]}
    page.press(TAB)
    assert page.focused() == "user"
    page.press(*([BACKSPACE] * 40), USERS[7], TAB)
    page.press(*([BACKSPACE] * 40), ITEMS[6], ENTER)
    page.wait(page.is_idle)

    path = f"/v1/explanations/{USERS[7]}/{ITEMS[6]}"
    answer = endpoint.get(path).json()
    assert page.text("text") == answer["explanation"]
    assert page.text("source") == "written now"
    assert page.text("item-profile") == dataset.items["profile"][6].as_py()
    assert page.text("user-profile") == dataset.users["profile"][7].as_py()
    evidence = endpoint.post("/v1/evidence", pair).json()
    nearest = [near["title"] for near in evidence["nearest_history"]]
    assert page.texts("#near li span:first-child") == nearest
    # While somebody types, the page may send an incomplete user ID.
    typed = [f"/v1/users/{USERS[7][:n]}/recommendations?" for n in range(1, len(USERS[7]))]
    assert not [
        entry
        for entry in page.driver.get_log("browser")
        if entry["level"] != "DEBUG" and not any(path in entry["message"] for path in typed)
    ]
    messages = [
        json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")
    ]
    sent = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert sent
    assert all(url.startswith(endpoint.url) for url in sent)


SENT = [("part", {"text": "It is rubbish", "is_checked": False})]
REPLACED = [("part", {"text": "It is calm.", "is_checked": True})]
REFUSED = {"status": 422, "detail": "user '<b>nobody</b>' is not known"}


@pytest.mark.parametrize(
    ("events", "text", "problem"),
    [
        ([*SENT, ("withdrawn", {}), *REPLACED], "It is calm.", ""),
        ([*SENT, ("explanation", {"answer": {"problem": REFUSED}})], "", "'<b>nobody</b>'"),
        ([*SENT, ("problem", REFUSED)], "", "'<b>nobody</b>'"),
        (SENT, "", "does not respond"),
    ],
)
def test_page_removes_a_text_that_was_withdrawn_or_broke_off(page, endpoint, events, text, problem):
    pair = {"user_id": USERS[0], "item_id": ITEMS[0]}
    evidence = endpoint.post("/v1/evidence", pair).json()
    answer = endpoint.get("/v1/explanations/{user_id}/{item_id}".format(**pair)).json()
    answer |= {"explanation": text, "people": {"kind": "history", "name": "Calm Inn"}}
    end = [("explanation", {"answer": answer})] if text else []
    page.run(ANSWER, evidence, [*events, *end])
    for name, value in (("user", USERS[0]), ("item", ITEMS[0])):
        page.run("document.getElementById(arguments[0]).value = arguments[1]", name, value)
    page.driver.find_element("id", "explain").click()
    page.wait(lambda: page.is_idle() and (page.text("problem") or page.text("text")))
    assert page.text("text") == text
    assert problem in page.text("problem")
    assert page.texts("#problem b") == []
    assert page.text("source") == ("from the backfill" if text else "")
    assert page.text("people")[:23] == ("The user chose Calm Inn" if text else "")


def test_page_explains_the_users_best_item_when_it_opens(page):
    page.wait(lambda: page.is_idle() and page.text("text"))
    item = page.driver.find_element("id", "item").get_property("value")
    (pressed,) = page.texts("#best-items button[aria-pressed=true]")
    assert item
    assert pressed in page.text("pair")
    assert not page.driver.find_element("id", "item-profile").is_displayed()
    page.driver.find_element("css selector", "summary").click()
    assert page.driver.find_element("id", "item-profile").is_displayed()
    page.driver.set_window_size(500, 900)
    assert page.run("return document.documentElement.scrollWidth") <= 500


def test_page_asks_for_a_key_where_there_are_keys(page, guarded):
    page.driver.get(guarded.url)
    page.wait(page.driver.find_element("id", "key").is_displayed)
    assert page.focused() == "key"
    page.press("root", TAB)
    page.wait(lambda: page.text("best-items"))
    assert not page.driver.find_element("id", "problem").is_displayed()
