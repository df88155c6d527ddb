"""The picture of the token viewer in README: of `make demo`'s traces, topk chosen, one token looked into.

python -m ekd.report traces=STORE out=FOLDER     # STORE as the demo named it
python scripts/picture.py FOLDER/traces.html              # -> docs/assets/viewer.png; needs chromium and its driver
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver import ActionChains

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "assets" / "viewer.png"


def main(page: str) -> int:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,770"):
        options.add_argument(word)
    service = webdriver.ChromeService(shutil.which("chromedriver"))  # unnamed, selenium would look for one on the net
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(Path(page).resolve().as_uri())
        for label in driver.find_elements("css selector", "label"):
            if label.text == "topk":
                label.click()
        tokens = driver.find_elements("css selector", ".token.chosen")
        ActionChains(driver).move_to_element(tokens[1]).perform()
        driver.save_screenshot(str(OUT))
    finally:
        driver.quit()
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
