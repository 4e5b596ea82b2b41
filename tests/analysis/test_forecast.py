"""Forecasts: what is written down before a run, what may not be, and how the outcome is scored."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_study as study
from scipy.stats import t as student
from typer.testing import CliRunner

from analysis.backtest import Backtest, Trial
from analysis.fit import fit, save
from analysis.forecast import register, spread
from analysis.score import Forecast, load_forecasts, score
from analysis.table import load
from launch.drive import Outcome
from scaling.accounting import counts
from scaling.cli.main import app
from scaling.config import Placement, RunConfig, dump_run_config, override, to_dict
from scaling.errors import UserError
from scaling.runs import RunFolder

TOKENS = 10**9  # unique tokens: more than any target here needs
TARGET = study.target_run(10.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a study of 30 runs on a known law, and its fit."""
    root = tmp_path_factory.mktemp("study")
    study.write_study(root / "runs" / "demo", target=False)
    content = fit(load(str(root / "runs" / "demo")), ["chinchilla"], resamples=200)
    save(content, root / "fits")
    return root, content


@pytest.fixture
def content(made: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return deepcopy(made[1])


def put(content: dict[str, Any], where: Path, config: RunConfig = TARGET, **options: Any) -> Forecast:
    options = {"unique_tokens": TOKENS, "sweep": "demo"} | options
    return register(content, config, folder=where / "forecasts", runs=where / "runs", **options)


def land(where: Path, config: RunConfig = TARGET, status: str = "done") -> RunFolder:
    return study.write_run(where / "runs" / "demo", config, 0.002, status)


def law(parameters: dict[str, float], n: float, d: float) -> float:
    p = parameters
    return p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"]


# ---- what is written


def test_forecast_is_the_laws_value_and_covers_the_truth(content: dict[str, Any], tmp_path: Path) -> None:
    found = put(content, tmp_path)
    n = counts(TARGET.model, TARGET.seq_len).n["total"]
    assert found.loss == pytest.approx(law(content["laws"]["chinchilla"]["parameters"], n, TARGET.tokens))
    low, high = found.interval
    assert low < study.true_loss(n, TARGET.tokens) < high
    quantiles = list(found.record["forecast"]["quantiles"].values())
    assert quantiles == sorted(quantiles)
    assert high / low < 1.2  # and it says something


def test_drift_is_students_t_of_the_backtest(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no spread of law and runs, the 95% quantile is t_k(.95) x rate x log ratio above the law."""
    past = Backtest(tuple(Trial(20, float(np.exp(2)), error) for error in (0.04, -0.04, 0.04)))
    best = [content["laws"]["chinchilla"]["parameters"][name] for name in ("A", "B", "E", "alpha", "beta")]
    content["resamples"]["chinchilla"]["values"] = [best]
    for row in content["rows"]:
        row["loss"] = law(content["laws"]["chinchilla"]["parameters"], row["n_total"], row["d"])
    found = spread(content, 1e5, 1e7, 10 * max(row["c"] for row in content["rows"]), past)
    expected = student.ppf(0.95, 3) * 0.02 * np.log(10)
    assert np.log(found.quantiles["0.95"] / found.quantiles["0.5"]) == pytest.approx(expected, rel=0.05)
    assert np.log(found.quantiles["0.5"] / found.quantiles["0.05"]) == pytest.approx(expected, rel=0.05)


def test_without_a_backtest_the_method_says_so(content: dict[str, Any]) -> None:
    assert "NOT in the interval" in spread(content, 1e5, 1e7, 3e12, Backtest(())).method


def test_the_file_holds_all_of_it_as_strict_json(content: dict[str, Any], tmp_path: Path) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
    found = put(content, tmp_path, now=moment)
    assert found.path.name == f"20260304T050607.089Z-{TARGET.run_id}.json"

    def refuse(name: str) -> None:
        raise AssertionError(name)

    record = json.loads(found.path.read_text(), parse_constant=refuse)
    assert record == found.record
    assert record["registered_at"] == "2026-03-04T05:06:07.089+00:00"
    assert record["measured"] is None
    assert record["fit_fingerprint"] == content["fingerprint"]
    assert record["code_version"].startswith("0.")
    target = record["target"]
    assert target["run_id"] == TARGET.run_id and target["sweep"] == "demo"
    assert target["flops"] == study.flops_of(TARGET)
    assert target["flops_over_largest_fitted"] == pytest.approx(
        study.flops_of(TARGET) / max(row["c"] for row in content["rows"])
    )
    assert target["epochs"] == TARGET.tokens / TOKENS


def test_same_fit_gives_same_numbers(content: dict[str, Any], tmp_path: Path) -> None:
    first, second = put(content, tmp_path / "a"), put(content, tmp_path / "b")
    assert first.record["forecast"] == second.record["forecast"]


# ---- what is refused


def test_nearer_than_ten_times_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"9\.\d+ times.*scaling predict"):
        put(content, tmp_path, study.target_run(9.5))
    assert not (tmp_path / "forecasts").exists()


def test_more_than_one_epoch_is_refused_unless_allowed(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epochs"):
        put(content, tmp_path, unique_tokens=TARGET.tokens - 1)
    with pytest.raises(UserError, match="not known here"):
        put(content, tmp_path, unique_tokens=None)
    assert put(content, tmp_path, unique_tokens=TARGET.tokens).record["target"]["epochs"] == 1.0
    other = tmp_path / "allowed"
    found = put(content, other, unique_tokens=TARGET.tokens // 2, allow_epochs=True)
    assert found.record["target"]["epochs"] == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("status", ["done", "diverged", "begun"])
def test_a_run_that_exists_is_refused(content: dict[str, Any], tmp_path: Path, status: str) -> None:
    run = land(tmp_path, status="done" if status == "begun" else status)
    if status == "begun":
        (run.path / "DONE").unlink()
        (run.path / "summary.json").unlink()
    with pytest.raises(UserError, match="already trained or begun"):
        put(content, tmp_path)


def test_a_run_folder_without_a_step_is_not_a_run(content: dict[str, Any], tmp_path: Path) -> None:
    run = land(tmp_path)
    for name in ("DONE", "summary.json", "metrics.jsonl"):
        (run.path / name).unlink()
    assert put(content, tmp_path).record["registered_before_run"]


def test_another_text_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fingerprint"):
        put(content, tmp_path, override(TARGET, {"data.fingerprint": "f" * 12}))


def test_a_foreign_table_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scaling predict"):
        put(content | {"own": False}, tmp_path)


# ---- registering again


def test_same_fit_twice_writes_nothing_even_after_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    first = put(content, tmp_path)
    before = first.path.read_bytes()
    land(tmp_path)
    again = put(content, tmp_path)
    assert again.path == first.path and first.path.read_bytes() == before
    assert len(list((tmp_path / "forecasts").iterdir())) == 1


def test_first_counts_and_all_are_kept_and_scored(content: dict[str, Any], tmp_path: Path) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    first = put(content, tmp_path, now=noon)
    put(content | {"fingerprint": "other"}, tmp_path, now=noon + timedelta(seconds=1))
    run = land(tmp_path)
    late = put(content | {"fingerprint": "late"}, tmp_path, now=noon + timedelta(days=1))
    assert not late.record["registered_before_run"]
    scored = score(tmp_path / "forecasts", run)
    assert [f.measured["counts"] for f in scored if f.measured] == [True, False, False]
    assert scored[0].path == first.path
    assert [f.record for f in load_forecasts(tmp_path / "forecasts")] == [f.record for f in scored]


# ---- scoring


def test_score_is_arithmetic(content: dict[str, Any], tmp_path: Path) -> None:
    found = put(content, tmp_path)
    run = land(tmp_path)
    measured = score(tmp_path / "forecasts", run)[0].measured
    assert measured is not None
    loss = run.summary()["loss"]
    best = min(row["loss"] for row in content["rows"])
    assert measured["status"] == "done" and measured["loss"] == loss and measured["loss_se"] == 0.003
    assert measured["error"] == pytest.approx(loss - found.loss)
    assert measured["relative_error"] == pytest.approx((loss - found.loss) / loss)
    assert measured["error_over_drop"] == pytest.approx(abs(loss - found.loss) / (best - loss))
    assert measured["inside_90"] is (found.interval[0] <= loss <= found.interval[1])
    line = found.straight_line
    assert measured["straight_line_error"] == pytest.approx(loss - line["loss"])
    # The synthetic loss flattens; a straight line in log-log does not.
    assert measured["straight_line_error"] > 3 * abs(measured["error"])


def test_scoring_leaves_what_was_registered_and_repeats_nothing(
    content: dict[str, Any], tmp_path: Path
) -> None:
    registered = put(content, tmp_path).record
    run = land(tmp_path)
    first = score(tmp_path / "forecasts", run, datetime(2026, 1, 1, tzinfo=UTC))[0]
    bytes_before = first.path.read_bytes()
    assert {k: v for k, v in first.record.items() if k != "measured"} == {
        k: v for k, v in registered.items() if k != "measured"
    }
    assert first.intact
    score(tmp_path / "forecasts", run, datetime(2026, 1, 2, tzinfo=UTC))
    assert first.path.read_bytes() == bytes_before


def test_outside_the_interval_is_said(content: dict[str, Any], tmp_path: Path) -> None:
    put(content, tmp_path)
    run = land(tmp_path)
    summary = json.loads((run.path / "summary.json").read_text())
    (run.path / "summary.json").write_text(json.dumps(summary | {"loss": 3.0}))
    measured = score(tmp_path / "forecasts", run)[0].measured
    assert measured is not None
    assert measured["inside_90"] is False
    assert measured["error_over_drop"] is None  # worse than the best fitted run: there was no drop


def test_a_diverged_target_is_no_success(content: dict[str, Any], tmp_path: Path) -> None:
    put(content, tmp_path)
    measured = score(tmp_path / "forecasts", land(tmp_path, status="diverged"))[0].measured
    assert measured is not None
    assert measured["status"] == "diverged" and measured["diverged_step"] > 0
    assert not measured.keys() & {"loss", "error", "inside_90"}


def test_an_unfinished_run_is_not_scored(content: dict[str, Any], tmp_path: Path) -> None:
    found = put(content, tmp_path)
    run = land(tmp_path)
    (run.path / "DONE").unlink()
    (run.path / "summary.json").unlink()
    with pytest.raises(UserError, match="stopped"):
        score(tmp_path / "forecasts", run)
    assert json.loads(found.path.read_text())["measured"] is None


@pytest.mark.parametrize("path", [("forecast", "loss"), ("registered_at",), ("target", "tokens")])
def test_a_changed_forecast_is_seen_and_not_scored(
    content: dict[str, Any], tmp_path: Path, path: tuple[str, ...]
) -> None:
    found = put(content, tmp_path)
    record: Any = json.loads(found.path.read_text())
    part = record
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = 1 if path[-1] != "registered_at" else "2020-01-01T00:00:00.000+00:00"
    found.path.write_text(json.dumps(record))
    notes: list[str] = []
    assert not load_forecasts(tmp_path / "forecasts", notes=notes)[0].intact
    assert len(notes) == 1 and found.path.name in notes[0]
    before = found.path.read_bytes()
    with pytest.raises(UserError, match="seal"):
        score(tmp_path / "forecasts", land(tmp_path))
    assert found.path.read_bytes() == before


def test_a_damaged_file_is_named_and_the_rest_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    found = put(content, tmp_path)
    (tmp_path / "forecasts" / "broken.json").write_text('{"registered_at": "20')
    (tmp_path / "forecasts" / "other.json").write_text("[]")
    notes: list[str] = []
    assert [f.path for f in load_forecasts(tmp_path / "forecasts", notes=notes)] == [found.path]
    assert ["broken.json" in notes[0], "other.json" in notes[1]] == [True, True]


# ---- the commands


def command(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scaling.cli.main", *arguments],
        cwd=where, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def desk(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A working directory with the study, its fit and the target's config."""
    for name in ("runs", "fits"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "demo").mkdir()
    (tmp_path / "fits" / "demo.json").write_bytes((made[0] / "fits" / "demo.json").read_bytes())
    (tmp_path / "target.json").write_text(dump_run_config(TARGET))
    return tmp_path


def test_commands_end_to_end(desk: Path) -> None:
    asked = ("forecast", "demo", "target.json", "--sweep", "demo", "--json")
    refused = command(desk, *asked)  # the synthetic text is not the embedded one
    assert refused.returncode == 2 and "--data" in refused.stderr and not refused.stdout
    done = command(desk, *asked, "--allow-epochs")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["new"] and (desk / printed["path"]).exists()
    again = json.loads(command(desk, *asked, "--allow-epochs").stdout)
    assert not again["new"] and again["path"] == printed["path"]

    land(desk)
    verified = command(desk, "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    measured = json.loads(verified.stdout)["forecasts"][0]["measured"]
    assert measured["counts"] and measured["status"] == "done"
    shown = command(desk, "verify", "demo")
    assert shown.returncode == 0 and "straight line" in shown.stdout and "measured" in shown.stdout

    path = desk / printed["path"]
    path.write_text(
        path.read_text().replace('"registered_before_run": true', '"registered_before_run": false')
    )
    tampered = command(desk, "verify", TARGET.run_id)
    assert tampered.returncode == 2 and "seal" in tampered.stderr and "Traceback" not in tampered.stderr


def test_allowed_epochs_are_those_that_training_will_be_asked_for(desk: Path) -> None:
    limited = override(TARGET, {"data.unique_tokens": TARGET.tokens // 3 + 1})
    (desk / "target.json").write_text(dump_run_config(limited))
    refused = command(desk, "forecast", "demo", "target.json")
    assert refused.returncode == 2 and "3.00 epochs" in refused.stderr
    done = command(desk, "forecast", "demo", "target.json", "--allow-epochs", "--json")
    target = json.loads(done.stdout)["target"]
    wanted = override(limited, {"data.epochs": 3})
    assert target["config"] == to_dict(wanted) and target["run_id"] == wanted.run_id
    assert target["epochs"] == pytest.approx(3, rel=1e-4) and wanted.run_id in done.stderr


def test_verify_says_diverged_with_exit_code_1(desk: Path) -> None:
    assert command(desk, "forecast", "demo", "target.json", "--allow-epochs").returncode == 0
    land(desk, status="diverged")
    verified = command(desk, "verify")
    assert verified.returncode == 1 and "diverged" in verified.stdout


@pytest.mark.parametrize("interrupted", [False, True])
def test_verify_trains_the_target_beside_its_sweep(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    found = put(content, tmp_path)
    beside = tmp_path / "runs" / "demo" / "000000000000"
    RunFolder(beside).create(override(TARGET, {"seed": 5}), Placement(data_path="the/text"))
    asked = []

    def train(configs: list[RunConfig], folder: Path, *, workers: int, placement: Placement) -> Outcome:
        asked.append((configs, folder, workers, placement.data_path, placement.threads))
        if not interrupted:
            land(tmp_path)
        return Outcome(interrupted="SIGINT" if interrupted else None)

    monkeypatch.setattr("launch.local.run_configs", train)
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["verify", str(found.path)])
    assert asked == [([TARGET], Path("runs/demo"), 1, "the/text", 1)]
    assert ended.exit_code == (130 if interrupted else 0), ended.output
    assert (json.loads(found.path.read_text())["measured"] is None) is interrupted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("forecast", "demo"), "--flops"),
        (("forecast", "demo", "target.json", "--flops", "1e13"), "--flops"),
        (("forecast", "nothing", "--flops", "1e13"), "does not exist"),
        (("forecast", "demo", "nothing.json"), "nothing.json"),
        (("verify",), "holds no forecast"),
        (("verify", "nothing"), "nothing"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(desk: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = command(desk, *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr and ended.stderr.count("\n") == 1
    assert not (desk / "forecasts").exists()
