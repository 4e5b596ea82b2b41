"""The dashboard: what its server says of a sweep that is being written, and what a browser makes of it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import chromium
import numpy as np
import pytest

from launch.dashboard import Dashboard
from launch.dashboard_curves import Curve
from launch.dashboard_fit import law
from launch.status import Reader
from scaling.accounting import counts
from scaling.config import DataConfig, ModelConfig, OptimizerConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.runs import RunFolder
from sweeps.sweep import Sweep

needs_browser = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="needs chromium: scripts/install_system_packages.sh installs it"
)


def config(d_model: int, seed: int, steps: int = 1000) -> RunConfig:
    return RunConfig(
        model=ModelConfig(n_layers=2, d_model=d_model, n_heads=2, n_kv_heads=2, d_head=8, d_ff=4 * d_model),
        data=DataConfig(name="drawn", fingerprint="0" * 12),
        optimizer=OptimizerConfig(lr=1e-2),
        seq_len=64,
        batch_size=4,
        steps=steps,
        seed=seed,
    )


LIVE, BESIDE, BROKEN, DONE = config(16, 0), config(32, 1), config(16, 2), config(32, 3)
LABELS = ("d16-live", "d32-<img src=x onerror=alert(1)>", "d16-broken", "d32-done")
CELLS = [{"label": label, "budget": 1e9} for label in LABELS]
SWEEP = Sweep("shown", "?", {"cells": CELLS}, (LIVE, BESIDE, BROKEN, DONE))


def line(step: int, loss: float | None) -> str:
    row = {"step": step, "tokens": 256 * step, "lr": 1e-3, "seconds": step / 10, "loss": loss}
    return json.dumps(row) + "\n"


def append(folder: Path, run: RunConfig, text: str) -> None:
    with (folder / run.run_id / "metrics.jsonl").open("a") as file:
        file.write(text)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Two runs that train, one that diverged, one done."""
    folder = tmp_path / "runs" / "shown"
    SWEEP.write(folder / "sweep.json")
    for run in SWEEP.runs:
        RunFolder(folder / run.run_id).create(run, Placement())
    for step in range(1, 21):
        append(folder, LIVE, line(step, 5 / step**0.1))
        append(folder, BESIDE, line(step, 6 / step**0.1))
        append(folder, DONE, line(step, 4 / step**0.1))
        append(folder, BROKEN, line(step, 9.0 if step < 11 else None))
    RunFolder(folder / BROKEN.run_id).finish("diverged", {"loss": None, "steps": 1000, "diverged_step": 11})
    RunFolder(folder / DONE.run_id).finish("done", {"loss": 2.5, "steps": 1000})
    with ExitStack() as held:
        for run in (LIVE, BESIDE):
            held.enter_context(RunFolder(folder / run.run_id).claim())
        yield folder


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setattr("launch.dashboard.LOOK_SECONDS", 0.0)
    with Dashboard(Reader(str(folder))) as page:
        monkeypatch.setattr(page.watched, "_due", 0.0)
        yield page


def get(
    page: Dashboard, path: str, host: str | None = None, **query: Any
) -> tuple[int, bytes, dict[str, str]]:
    address = urlsplit(page.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    headers = {"host": host} if host else {}
    connection.request("GET", path + (f"?{urlencode(query)}" if query else ""), headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def ask(page: Dashboard, path: str, **query: Any) -> dict[str, Any]:
    page.watched._due = 0.0
    status, body, _ = get(page, path, **query)
    assert status == 200, body
    return json.loads(body)


def test_only_runs_that_changed_are_sent(page: Dashboard, folder: Path) -> None:
    first = ask(page, "/api/sweep")
    assert [run["status"] for run in first["runs"]] == ["running", "running", "diverged", "done"]
    assert first["totals"]["running"] == 2 and first["flops_per_second"] > 0
    again = {"epoch": first["epoch"], "since": first["version"]}
    assert ask(page, "/api/sweep", **again)["runs"] == []
    append(folder, LIVE, line(21, 3.0))
    (changed,) = ask(page, "/api/sweep", **again)["runs"]
    assert (changed["id"], changed["tokens"], changed["loss"]) == (LIVE.run_id, 21 * 256, 3.0)
    assert len(ask(page, "/api/sweep", epoch="another", since=10**6)["runs"]) == 4


def test_only_curves_that_grew_are_sent(page: Dashboard, folder: Path) -> None:
    ids = f"{LIVE.run_id},{BESIDE.run_id}"
    first = ask(page, "/api/curves", runs=ids)
    again = {"runs": ids, "epoch": first["epoch"], "since": first["version"]}
    assert ask(page, "/api/curves", **again)["curves"] == {}
    append(folder, LIVE, line(40, 3.0))
    assert list(ask(page, "/api/curves", **again)["curves"]) == [LIVE.run_id]


def test_a_curve_is_the_mean_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, 2.0 + step % 2) for step in range(1, 2001)))
    curve = Curve(path)
    assert curve.read() and not curve.read()
    tokens, loss, seconds = np.array(curve.points).T
    assert tokens[-1] == 2000 * 256 and seconds[-1] == 200.0
    assert len(tokens) < 24 * 3.5 and (np.diff(tokens) > 0).all()
    late = loss[tokens > 500 * 256][:-1]  # dozens of rows each; the last has only begun
    assert late == pytest.approx(2.5, abs=0.02) and len(late) > 10


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    path, curve = tmp_path / "metrics.jsonl", Curve(tmp_path / "metrics.jsonl")
    assert not curve.read() and curve.points == []  # not there yet
    whole = line(1, 5.0) + line(2, 4.0)
    path.write_text(whole[:-7])
    curve.read()
    assert [point[1] for point in curve.points] == [5.0]
    path.write_text("")  # the same file: the log of a run that was begun again
    curve.read()
    assert curve.points == []
    with path.open("a") as file:
        file.write(
            whole + 'torn {"step"\n[3]\n{"tokens": "x", "loss": 1}\n' + line(4, float("nan")) + line(5, 3.0)
        )
    curve.read()
    assert [point[1] for point in curve.points] == [5.0, 4.0, 3.0] and curve.broken == 4 * 256
    shorter = tmp_path / "new"
    shorter.write_text(line(1, 5.5))
    shorter.replace(path)  # as a resume cuts it
    curve.read()
    assert [point[1] for point in curve.points] == [5.5]


def test_a_sweep_that_is_launched_or_replaced_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SWEEP.write("shown.json")
    with Dashboard(Reader("shown.json")) as page:
        first = ask(page, "/api/sweep")
        assert first["totals"]["pending"] == 4 and not Path("runs").exists()
        assert ask(page, "/api/curves", runs=LIVE.run_id)["curves"] == {}
        assert ask(page, "/api/fit")["state"] == "waiting"
        Sweep("shown", "?", {}, SWEEP.runs[:2]).write("runs/shown/sweep.json")
        second = ask(page, "/api/sweep", epoch=first["epoch"], since=first["version"])
        assert second["epoch"] != first["epoch"] and len(second["runs"]) == 2
        shutil.rmtree("runs")
        assert len(ask(page, "/api/sweep")["runs"]) == 4


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/app.js/..", "/api", "/sweep.json"],
)
def test_nothing_else_is_served(path: str, page: Dashboard) -> None:
    assert get(page, path)[0] == 404


def test_a_run_that_is_not_of_the_sweep_is_not_read(page: Dashboard, folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "metrics.jsonl").write_text(line(1, 5.0))
    assert ask(page, "/api/curves", runs="../outside,.,")["curves"] == {}


def test_only_its_own_names_are_answered(page: Dashboard) -> None:
    port = urlsplit(page.url).port
    for host, code in (
        (f"127.0.0.1:{port}", 200), (f"localhost:{port}", 200), (f"[::1]:{port}", 200),
        (f"evil.example:{port}", 403), ("127.0.0.1.evil.example", 403),
    ):  # fmt: skip
        assert get(page, "/", host)[0] == code
    policy = get(page, "/")[2]["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    assert get(page, "/api/sweep", since="x")[0] == 400


def test_an_address_that_cannot_be_had_is_one_sentence(page: Dashboard) -> None:
    with pytest.raises(UserError, match="--port"):
        Dashboard(page.watched.reader, port=urlsplit(page.url).port or 0)
    with pytest.raises(UserError, match="no sweep 'nowhere'"):
        Reader("nowhere")


def test_the_law_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs drawn from a law give it back, and along a budget the best size is where its profile is lowest."""
    runs, cells, folder = [], [], tmp_path / "drawn"
    for budget in (1e11, 1e12, 1e13):
        for d_model in (16, 32, 64, 128, 256):
            per_token = counts(config(d_model, 0).model, 64).flops_per_token["matmul"]
            runs.append(config(d_model, 0, steps=round(budget / per_token / 256)))
            cells.append({"label": f"d{d_model}", "budget": budget})
    Sweep("drawn", "?", {"cells": cells}, tuple(runs)).write(folder / "sweep.json")
    for number, run in enumerate(runs):
        n = counts(run.model, 64).n["total"]
        loss = (1.3 + 45 / n**0.44 + 150 / run.tokens**0.45) * (1 + 1e-4 * (-1) ** number)
        place = RunFolder(folder / run.run_id)
        place.create(run, Placement())
        place.finish("done", {"loss": loss, "loss_se": 0.01})
    monkeypatch.setattr("launch.dashboard_fit.RESAMPLES", 20)
    found = law(folder, Reader(str(folder)).read())
    assert found["converged"] and found["rows"] == len(runs)
    assert found["parameters"]["E"] == pytest.approx(1.3, rel=0.02)
    assert found["parameters"]["alpha"] == pytest.approx(0.44, rel=0.05)
    assert [profile["budget"] for profile in found["profiles"]] == [1e11, 1e12, 1e13]
    for profile in found["profiles"]:
        n, loss = np.array(profile["curve"]).T
        assert loss.min() == pytest.approx(profile["loss"], rel=1e-3)
        assert np.log(n[loss.argmin()]) == pytest.approx(np.log(profile["n"]), abs=0.15)
    json.dumps(found, allow_nan=False)


@needs_browser
def test_a_browser_sees_a_curve_grow(page: Dashboard, folder: Path, tmp_path: Path) -> None:
    curve = f"document.querySelector('#curves path[data-id=\"{LIVE.run_id}\"]')"
    with chromium.Browser(tmp_path / "profile") as browser:
        browser.shape(1280, 900)
        browser.open(page.url)
        before = browser.wait(f"{curve} && +{curve}.dataset.points")
        drawn = browser.evaluate(f"{curve}.getAttribute('d')")
        browser.evaluate(f"window.kept = {curve}; document.querySelector('#rows').dataset.kept = 1")
        for step in range(21, 400):
            append(folder, LIVE, line(step, 5 / step**0.1))
        append(folder, LIVE, '{"step": 400, "tok')
        browser.wait(f"+{curve}.dataset.points > {before}")
        assert browser.evaluate(f"{curve}.getAttribute('d')") != drawn
        assert browser.evaluate(f"window.kept === {curve}")  # moved, not drawn anew
        # Other people's text stays text.
        assert LABELS[1] in browser.evaluate("document.getElementById('rows').innerText")
        assert browser.evaluate("document.images.length") == 0
        # The profile fills in when the run ends.
        dots = "document.querySelectorAll('#profiles circle').length"
        assert browser.evaluate(dots) == 1
        RunFolder(folder / LIVE.run_id).finish("done", {"loss": 2.25, "steps": 1000})
        browser.wait(f"{dots} === 2")
        assert browser.evaluate(
            "performance.getEntriesByType('resource').every(r => r.name.startsWith(origin))"
        )
        assert browser.errors == []


@needs_browser
def test_filters_widths_and_a_server_that_has_gone(page: Dashboard, tmp_path: Path) -> None:
    rows = "[...document.querySelectorAll('#rows tr')].map(row => row.children[1].innerText)"
    with chromium.Browser(tmp_path / "profile") as browser:
        browser.open(page.url)
        browser.wait(f"{rows}.length === 4")
        assert browser.evaluate(rows)[:2] == [LABELS[0], LABELS[1]]  # what runs is first

        def fill(name: str, value: str) -> None:
            browser.evaluate(
                f"document.getElementById('{name}').value = {json.dumps(value)};"
                f"document.getElementById('{name}').dispatchEvent(new Event('input'))"
            )

        fill("match", "d32*")
        assert browser.evaluate(rows) == [LABELS[1], LABELS[3]]
        fill("only", "done")
        assert browser.evaluate(rows) == [LABELS[3]]
        fill("match", "(")
        assert browser.evaluate(rows) == []
        fill("match", "")
        fill("only", "")
        browser.evaluate("document.querySelectorAll('#columns button')[5].click()")
        assert browser.evaluate(rows)[0] == LABELS[3]  # the lowest loss
        for width, dark in ((1280, False), (390, True)):
            browser.shape(width, 800, dark=dark)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.errors == []
        page.__exit__()
        browser.wait("document.getElementById('link').classList.contains('lost')")
