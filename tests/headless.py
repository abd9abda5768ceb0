"""A real browser without a window, for the tests of pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

BROWSER = next((p for p in map(shutil.which, ("chromium", "google-chrome", "chrome")) if p), None)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="needs a browser: chromium and chromedriver on the path "
    "(Debian: apt-get install chromium chromium-driver)",
)

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip


def start(profile: Path) -> Iterator[Any]:
    """A browser with logs of its console and of its requests; it ends with the generator."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def open_at(
    browser: Any, page: Path, width: int, scheme: str = "light", motion: str = "no-preference"
) -> None:
    """Load a page at a width, in a colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": motion},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def forget_logs(browser: Any) -> None:
    """Drop what was logged before."""
    for log in ("browser", "performance"):
        browser.get_log(log)


def console_of(browser: Any) -> list[dict[str, Any]]:
    """What the page wrote to the console, errors of its policy included."""
    logged = browser.get_log("browser")
    return [entry for entry in logged if "chrome://" not in entry["message"]]


def requests_of(browser: Any, page: Path) -> list[str]:
    """What the page asked for; the browser's own start page may still be loading."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [p["request"]["url"] for p in sent if p["documentURL"] == page.as_uri()]


def assert_quiet_and_within(browser: Any, page: Path, width: int) -> None:
    """No error on the console, no request that leaves the page, nothing beyond its edge."""
    assert console_of(browser) == []
    asked = requests_of(browser, page)
    assert [url for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    inner, scroll = browser.execute_script(
        "const d = document.documentElement; return [d.clientWidth, d.scrollWidth]"
    )
    assert scroll <= inner <= width
