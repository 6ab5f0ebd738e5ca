"""The page in headless Chromium: pick a pair, see its text arrive and what the text rests on.

It is used by keyboard, on a phone, with dark colours, and with a key.
"""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.serve.local_endpoint import Endpoint, local_endpoint
from tests.xrec.serve.town import dataset_of, ids_of
from xrec.data.evidence import NamedEvidence

webdriver: Any = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed (extra test): the page is not tested"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium and chromedriver are not on PATH (Debian: chromium-driver): "
    "the page is not tested",
)
DESKTOP, PHONE = (1280, 1000), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
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
def open_page(browser: Any) -> Callable[..., None]:
    """Open the page of a URL in a window of `size`, with light or dark colours."""

    def open_at(url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        browser.get(f"{url}/")

    return open_at


def wait(browser: Any, condition: Callable[[Any], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 15).until(condition)


def text(browser: Any, name: str) -> str:
    return str(
        browser.execute_script("return document.getElementById(arguments[0]).textContent", name)
    )


def is_idle(browser: Any) -> bool:
    return bool(
        browser.execute_script(
            "return document.getElementById('explain').getAttribute('aria-busy') === 'false'"
        )
    )


def press(browser: Any, *keys: str) -> None:
    """Type into the element that has the focus."""
    webdriver.ActionChains(browser).send_keys(*keys).perform()


# Keeps the text at each of its changes.
WATCH = """
window.seen = [];
new MutationObserver(() => window.seen.push(document.getElementById('text').textContent))
  .observe(document.getElementById('text'), {childList: true, characterData: true, subtree: true});
"""

# Answers in the endpoint's place: with an evidence, and with an explanation.
ANSWER = """
const [evidence, answer] = arguments;
const written = `event: explanation\\ndata: ${JSON.stringify({answer})}\\n\\n`;
const answers = {evidence: JSON.stringify(evidence), stream: written};
window.fetch = async (path) =>
  new Response(answers[path.split('/').pop()] ?? JSON.stringify({explanations: []}));
"""


def test_pair_is_picked_written_word_by_word_and_its_evidence_shown_by_keyboard_alone(
    browser: Any, open_page: Callable[..., None], endpoint: Endpoint, town: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    users, items = ids_of(town)
    dataset = dataset_of(town)
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    browser.execute_script(WATCH)
    press(browser, Keys.TAB)  # the user's field is the first
    assert browser.switch_to.active_element.get_attribute("id") == "user"
    press(browser, *([Keys.BACKSPACE] * 40), users[7], Keys.TAB)
    press(browser, items[6], Keys.ENTER)
    wait(browser, lambda _: text(browser, "text-none") and is_idle(browser))

    answer = endpoint.get(f"/v1/explanations/{users[7]}/{items[6]}").json()
    assert text(browser, "text") == answer["explanation"]
    seen = list(dict.fromkeys(browser.execute_script("return window.seen")))
    assert len(seen) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen) if earlier)
    assert text(browser, "source") == "written now"
    assert text(browser, "item-profile") == dataset.items["profile"][6].as_py()
    assert text(browser, "user-profile") == dataset.users["profile"][7].as_py()
    evidence = endpoint.post(
        "/v1/evidence",
        {"user_id": users[7], "item_id": items[6], "explanation": answer["explanation"]},
    ).json()
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#near li span:first-child')]"
        ".map((node) => node.textContent)"
    )
    assert shown == [near["title"] for near in evidence["nearest_history"]]
    assert f"Gain {evidence['likelihood']['gain']:.3f} nats" in text(browser, "likelihood")
    others = [
        endpoint.get(f"/v1/explanations/{users[7]}/{items[6]}?collaborative={signal}")
        .json()
        .get("explanation")
        for signal in ("prompt_only", "none")
    ]
    assert [text(browser, "text-prompt_only"), text(browser, "text-none")] == others
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []


def test_pair_of_the_backfill_says_so_and_can_be_written_anew(
    browser: Any, open_page: Callable[..., None], endpoint: Endpoint, town: Path
) -> None:
    users, items = ids_of(town)
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    browser.execute_script(
        "document.getElementById('user').value = arguments[0];"
        "document.getElementById('item').value = arguments[1];",
        users[0],
        items[0],
    )
    browser.find_element("id", "explain").click()
    wait(browser, lambda _: text(browser, "text-none") and is_idle(browser))
    assert text(browser, "source") == "from the backfill"
    known = text(browser, "text")
    browser.find_element("id", "fresh").click()
    browser.find_element("id", "explain").click()
    wait(browser, lambda _: text(browser, "source") == "written now")
    assert text(browser, "text") == known


def test_best_items_are_the_recommendations_and_can_be_clicked(
    browser: Any, open_page: Callable[..., None], endpoint: Endpoint, town: Path
) -> None:
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    user = browser.find_element("id", "user").get_attribute("value")
    best = endpoint.get(f"/v1/users/{user}/recommendations?k=6&explain=false").json()["items"]
    buttons = browser.find_elements("css selector", "#best-items button")
    assert [button.text for button in buttons] == [item["title"] for item in best]
    buttons[1].click()
    wait(browser, lambda _: is_idle(browser))
    assert best[1]["item_id"] in text(browser, "pair")


def test_unknown_user_is_told_in_words(
    browser: Any, open_page: Callable[..., None], endpoint: Endpoint, town: Path
) -> None:
    _, items = ids_of(town)
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    browser.execute_script(
        "document.getElementById('user').value = '<b>nobody</b>';"
        "document.getElementById('item').value = arguments[0];",
        items[0],
    )
    browser.find_element("id", "explain").click()
    wait(browser, lambda _: "is not among the 12 users" in text(browser, "problem"))
    assert browser.execute_script("return document.querySelectorAll('#problem b').length") == 0


@pytest.mark.parametrize(
    ("aspects_from", "shown"),
    [
        ("reviews", "tea (“smoky”): in 4 of the item's 9 reviews, in 2 of the user's 3"),
        ("profiles", "tea (“smoky”): in the item's profile, in 2 of the user's 3 items' profiles"),
    ],
)
def test_chosen_aspects_say_what_their_figures_count(
    browser: Any,
    open_page: Callable[..., None],
    endpoint: Endpoint,
    town: Path,
    aspects_from: str,
    shown: str,
) -> None:
    users, items = ids_of(town)
    pair = {"user_id": users[0], "item_id": items[0], "explanation": "Its tea is smoky."}
    evidence = endpoint.post("/v1/evidence", pair).json() | {"aspects_from": aspects_from}
    answer = endpoint.get(f"/v1/explanations/{users[0]}/{items[0]}").json()
    answer["aspects"] = [vars(NamedEvidence("tea", 4, 9, 2, 3, opinion="smoky", is_named=True))]
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    browser.execute_script(ANSWER, evidence, answer)
    browser.execute_script("document.getElementById('item').value = arguments[0]", items[0])
    browser.find_element("id", "explain").click()
    wait(browser, lambda _: text(browser, "aspects") and is_idle(browser))
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#aspects li')].map((node) => node.textContent)"
    )
    assert lines == [shown]


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_page_fits_its_window_and_is_legible(
    browser: Any,
    open_page: Callable[..., None],
    endpoint: Endpoint,
    tmp_path: Path,
    size: tuple[int, int],
    scheme: str,
) -> None:
    open_page(endpoint.url, size, scheme)
    wait(browser, lambda _: text(browser, "best-items"))
    browser.find_elements("css selector", "#best-items button")[0].click()
    wait(browser, lambda _: text(browser, "text-none") and is_idle(browser))
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )
    ground, ink = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    assert contrast(ground, ink) > 7
    assert (luminance(ground) < 0.2) == (scheme == "dark")
    targets = (
        "[...document.querySelectorAll('button, input:not([type=checkbox])')]"
        ".filter((node) => node.offsetParent)"
    )
    assert min(browser.execute_script(f"return {targets}.map((node) => node.offsetHeight)")) >= 40
    assert browser.save_screenshot(str(tmp_path / f"{scheme}-{size[0]}.png"))


def test_page_asks_for_nothing_from_elsewhere(
    browser: Any, open_page: Callable[..., None], endpoint: Endpoint
) -> None:
    import json

    browser.get_log("performance")
    open_page(endpoint.url)
    wait(browser, lambda _: text(browser, "best-items"))
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(url.startswith(endpoint.url) for url in asked)


def test_key_is_asked_for_where_there_are_keys(
    browser: Any, open_page: Callable[..., None], town: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    keys = [{"name": "page", "sha256": hashlib.sha256(b"open sesame").hexdigest()}]
    with local_endpoint(town, security={"keys": keys}) as guarded:
        open_page(guarded.url)
        wait(browser, lambda _: browser.find_element("id", "key").is_displayed())
        assert browser.switch_to.active_element.get_attribute("id") == "key"
        press(browser, "open sesame", Keys.TAB)
        wait(browser, lambda _: text(browser, "best-items"))
        assert not browser.find_element("id", "problem").is_displayed()


def luminance(color: str) -> float:
    """Return the relative luminance (WCAG 2) of a CSS rgb()."""
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio (WCAG 2) of two CSS colours."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
