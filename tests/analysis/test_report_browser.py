"""The report as a browser lays it out: every figure decoded, nothing wider than the page, nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import synthetic_study as study

from analysis.fit import fit
from analysis.report import build
from analysis.table import load

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium: scripts/install_system_packages.sh installs it"
)

# Runs in a copy of the page: what the layout came to, as JSON in the title.
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  document.title = "PROBE" + JSON.stringify({
    images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    fetched: performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")),
    page: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
    plate: getComputedStyle(document.querySelector(".plate")).filter,
    text: document.body.innerText.length,
  }) + "END";
})</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("browser")
    folder = study.write_study(base / "runs" / "quickstart", target=False)
    report = build(folder, fit(load(str(folder)), resamples=100), [], base / "report")
    probed = base / "probed.html"
    probed.write_text(report.read_text() + PROBE)
    return probed


@pytest.mark.parametrize("width", [1280, 500])  # a desk, and the narrowest window that chromium opens
def test_layout(width: int, page: Path) -> None:
    found = _probe(page, width)
    assert found["images"] >= 5
    assert found["broken"] == 0
    assert found["fetched"] == []
    assert found["text"] > 1000
    assert found["page"] <= found["window"] == width
    assert found["plate"] == "none"


def test_figures_are_dark_on_a_dark_screen(page: Path) -> None:
    assert "invert" in _probe(page, 1280, "--blink-settings=preferredColorScheme=0")["plate"]


def _probe(page: Path, width: int, *options: str) -> dict[str, Any]:
    assert BROWSER
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--dump-dom",
        *options,
    ]
    command += [f"--window-size={width},900", f"--user-data-dir={page.parent / f'profile-{width}'}"]
    # The page's clock runs ahead of the wall's, so that a slow machine changes nothing.
    command += ["--virtual-time-budget=10000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r"PROBE(.*?)END", done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    return json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
