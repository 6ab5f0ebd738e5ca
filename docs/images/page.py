"""Take page.webp: the endpoint's page with a reason and its evidence, in headless Chromium.

    python docs/images/page.py

The shop and the commands are those of terminal.py, and the page is as it opens. It needs chromium
and chromedriver (Debian: chromium-driver), and port 8000.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from terminal import COMMANDS, write_shop

WIDTH, PATIENCE = 1000, 120  # pixels; seconds until the endpoint is ready
IS_SHOWN = "return document.querySelector('#explain[aria-busy=false]') && document.title"


def take(url: str) -> bytes:
    """Return a picture of the whole page at `url`, with two pixels for each of the page's."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        screen = {"width": WIDTH, "height": 600, "deviceScaleFactor": 2, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get(url)
        WebDriverWait(driver, PATIENCE).until(lambda _: driver.execute_script(IS_SHOWN))
        kind = {"format": "webp", "quality": 80, "captureBeyondViewport": True}
        return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", kind)["data"])
    finally:
        driver.quit()


def main() -> None:
    """Run the commands in a folder of their own, serve the result, and write page.webp."""
    programs = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        write_shop(Path(folder))
        for command in COMMANDS[1:]:
            subprocess.run(command, shell=True, cwd=folder, check=True, env=programs)
        serve = ["xrec", "serve", "shop/xrec.yaml"]
        with subprocess.Popen(
            serve, cwd=folder, env=programs, text=True, stdout=subprocess.PIPE
        ) as server:
            for line in server.stdout:
                if line.startswith("serving at "):
                    Path(__file__).with_name("page.webp").write_bytes(take(line.split()[2]))
                    break
            server.send_signal(signal.SIGINT)
            server.communicate()


if __name__ == "__main__":
    main()
