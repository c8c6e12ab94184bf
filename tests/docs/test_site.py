"""The site in a browser without a network: nothing is wider than the window, and all formulas are set."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"desktop": 1280, "phone": 390}
BROWSER = """
<!doctype html><meta charset="utf-8"><body><script>
const found = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  const loaded = new Promise((done) => (frame.onload = done));
  frame.src = page;
  document.body.append(frame);
  await loaded;
  await wait(200);
  const root = frame.contentDocument.documentElement;
  const style = frame.contentWindow.getComputedStyle(frame.contentDocument.body);
  found.push({
    page, width,
    window: frame.contentWindow.innerWidth,
    beyond: root.scrollWidth - root.clientWidth,
    formulas: root.querySelectorAll(".arithmatex").length,
    set: root.querySelectorAll(".arithmatex .katex-html").length,
    wrong: [...root.querySelectorAll(".katex-error")].map((e) => e.title),
    broken: [...root.querySelectorAll("img")].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src),
    colours: [style.backgroundColor, style.color],
  });
  frame.remove();
}
(async () => {
  for (const page of PAGES) for (const width of SIZES) await look(page, width);
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(found);
})();
</script></body>
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


def seen(site, pages, dark):
    """What a browser sees of pages, at the width of a desktop and of a phone."""
    text = BROWSER.replace("PAGES", json.dumps(pages), 1).replace("SIZES", json.dumps(list(WIDTHS.values())), 1)
    (site / "look.html").write_text(text, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        "--window-size=1400,1000", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=600000", "--dump-dom", (site / "look.html").as_uri(),
    ]  # fmt: skip
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    finally:
        (site / "look.html").unlink()
    found = json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", shown, re.DOTALL)[1]))
    assert len(found) == len(WIDTHS) * len(pages)
    return found


def brightness(colour):
    red, green, blue, *_ = map(float, re.findall(r"[\d.]+", colour))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_pages_fit_and_formulas_are_set(site):
    """All pages in light colours; in dark ones, which differ in nothing else, some."""
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 100
    check(seen(site, pages, dark=False), dark=False)
    check(seen(site, pages[::10], dark=True), dark=True)


def check(found, dark):
    assert not [view for view in found if view["window"] != view["width"]]
    assert not [(view["page"], view["width"], view["beyond"]) for view in found if view["beyond"] > 0]
    assert not [(view["page"], view["wrong"]) for view in found if view["wrong"]]
    assert not [view["page"] for view in found if view["set"] != view["formulas"]]
    assert not [(view["page"], view["broken"]) for view in found if view["broken"]]
    assert sum(view["formulas"] for view in found) > (10 if dark else 300)
    for view in found:
        background, text = map(brightness, view["colours"])
        assert (background < 60 < 150 < text) if dark else (text < 60 < 200 < background), view
