"""Logs of others become the runs table: wandb's, TensorBoard's and JSON lines, whole or cut short."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_wandb import FakeWandb
from typer.testing import CliRunner

from analysis import wandb_files
from analysis.columns import Reading
from analysis.importing import gather, kind_of, map_path
from analysis.metrics import read_logs
from analysis.roles import plain
from analysis.table import load
from analysis.wandb_source import load_project, row_of
from scaling.cli.main import app
from scaling.errors import UserError

# Written by tensorboardX 2.6.5: val/loss 3.5, 3, 2.5 at steps 1, 2, 3 and, in a folder of its own, the
# hyperparameters n_params 1e8, opt adam, decay true; and by tensorboard 2.21: at step 7 val/loss 2.5 as a
# float tensor, tokens 1e9 as a double, k -3 as an integer, and a vector.
SCALARS = (
    "H4sIAAAAAAACA5NggIDF9d5KnD7GSheXHrjlKMWbVJSYmafnWpaaV2JlVN3Esl4Oqu7mHSEjzhe1EHUCjFqCXPxcHGWJOfo5+cXFogwMCQ6rnu1e"
    "jaK6sB2qmglDtYPDwS27G1FU83VAVTNjqFZw2Oy50QIABzznhbIAAAA="
)
HPARAMS = (
    "H4sIAAAAAAACA5NggIDF9d5KnJ5blS4uPXDLUYo3qSgxM0/PtSw1r8TKKNb0vnccVN2NDXl7OM+cgKjTCuYK5BKJzyhILErMLY7XT60oSC3KzAVq"
    "8rLkMudih0oI6QhpKfFwceTFQ/gKzErsXMz5BSUKjEqcXKwpqcmJlQpMWmxcLEJMGQWFDu31+VDbcgwb73GWnIHalsKVxCWDsK04tbg4Mz8vvrgk"
    "sagkPjMvLd/LicsBYauplDGXKMJWIU5BkJEt16c7cnFDbRViUmDk4gW7RYhNiiUxJTE3U2xLjw3U+hPbFwdxzoZZb8ilzyWFaX1qXgrEckEufoTl"
    "LEpMHIzvTvvGiEHN8k/cp8E59SzULG4uTi6gX0UZGBrsdU3/bwAAs0ox+YcBAAA="
)
TENSORS = (
    "H4sIAAAAAAACA/NggIB/kzzmcnp8Db+49MAtRynepKLEzDw917LUvBIroyA9Lp2S1Lzi/KKk/MSiFL3i0tzcxKJKvfKizJLUIr1UkKr4tMyc1HiI"
    "yM8DbHE5UHO/3tpwnRPC/GAvwK4VzyXCxVGWmKOfk19c7MTBwajEwsCg4MAlxsVWkp8NtMSJh4PJiAOkPvXsWUcuYS7GbCc+Ds4grr//oYCRS4qL"
    "JSOzuMRJiINRiEWIiYNJC6ihwR6ox6E0e5csAJXAOMfUAAAA"
)
NAME = "events.out.tfevents.1795331908.host"


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress(base64.b64decode(text)))
    return path


def law(n: float, d: float) -> float:
    return 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28


def sizes(count: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    c = 10 ** rng.uniform(17, 20, count)
    n = np.round(np.sqrt(c / 120) * np.exp(rng.uniform(-1, 1, count)))
    return [(float(a), float(np.round(b / 6 / a))) for a, b in zip(n, c, strict=True)]


def test_tensorboard_as_three_writers_write_it(tmp_path: Path) -> None:
    put(tmp_path / "x" / NAME, SCALARS)
    put(tmp_path / "x" / "1795331908.54" / NAME, HPARAMS)
    put(tmp_path / "y" / "deep" / NAME, TENSORS)
    table, kind, notes = gather(str(tmp_path))
    assert (kind, notes) == ("tensorboard", [])
    rows = {row["run"]: row for row in table.to_dict("records")}
    assert set(rows) == {"x", "y/deep"}
    x = rows["x"]
    assert (x["step"], x["val/loss"], x["hp"]) == (3, 2.5, 1.0)
    assert (x["n_params"], x["opt"], x["decay"]) == (1e8, "adam", True)
    y = rows["y/deep"]
    assert (y["step"], y["val/loss"], y["tokens"], y["k"]) == (7, 2.5, 1e9, -3.0)
    assert "hist" not in table
    curves, _, _ = gather(str(tmp_path), curves=True)
    assert curves[curves.run == "x"][["step", "val/loss"]].to_numpy().tolist() == [
        [1, 3.5],
        [2, 3.0],
        [3, 2.5],
    ]


@pytest.mark.parametrize(("cut", "loss"), [(1, 3.0), (40, 3.0), (50, 3.5)])
def test_an_event_file_cut_short_is_read_up_to_the_cut(cut: int, loss: float, tmp_path: Path) -> None:
    path = put(tmp_path / "run" / NAME, SCALARS)
    path.write_bytes(path.read_bytes()[:-cut])
    table, _, notes = gather(str(tmp_path))
    assert table["val/loss"].tolist() == [loss]
    assert len(notes) == 1 and "cut short" in notes[0] and NAME in notes[0]


def test_an_event_file_without_a_whole_event(tmp_path: Path) -> None:
    path = put(tmp_path / "run" / NAME, SCALARS)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(UserError, match=r"hold no scalar .*cut short after 0 events"):
        gather(str(tmp_path))


def test_a_folder_of_jsonl_logs_is_fitted_by_name(tmp_path: Path) -> None:
    for i, (n, d) in enumerate(sizes(14)):
        folder = tmp_path / "logs" / f"run{i:02d}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model": {"width": 8}, "n_params": n}))
        lines = [
            {"step": s, "tokens": d * s / 4, "train_loss": 9.0, "val": {"loss": law(n, d * s / 4)}}
            for s in range(1, 5)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = load(str(tmp_path / "logs"), Reading())
    assert runs.runs == [f"run{i:02d}" for i in range(14)]
    np.testing.assert_allclose(runs.column("loss"), [law(n, d) for n, d in sizes(14)])
    np.testing.assert_allclose(runs.column("d"), [d for _, d in sizes(14)])
    curves, kind, _ = gather(str(tmp_path / "logs"), curves=True)
    assert kind == "jsonl" and len(curves) == 56 and curves["model.width"].eq(8).all()


def test_one_log_a_run_beside_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 2, "loss": 3.0}\n{"step": 1, "loss": 4.0}\n')
    (tmp_path / "a.json").write_text('{"n": 1e6}')
    (tmp_path / "b.jsonl").write_text('{"step": 1, "loss": 5}\n{"step": 1, "loss": 4.5}')
    table, _, notes = gather(str(tmp_path))
    assert notes == []
    assert table[["run", "step", "loss"]].to_numpy().tolist() == [["a", 2, 3.0], ["b", 1, 4.5]]
    assert table["n"].tolist()[0] == 1e6


def test_damaged_lines_are_dropped_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "los')
    (tmp_path / "b.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 3.5}\nnot json\n\n{"step": 3}\n'
    )
    frame, notes = read_logs(
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"], ["a", "b", "c"]
    )
    assert frame["run"].tolist() == ["a", "b", "b", "b"] and frame["step"].tolist() == [1, 1, 2, 3]
    np.testing.assert_array_equal(frame["loss"], [4.0, np.nan, 3.5, np.nan])
    assert len(notes) == 2 and "line 2 is cut off" in notes[0] and "line 3 is unreadable" in notes[1]


def test_a_loss_logged_long_before_the_end_is_named(tmp_path: Path) -> None:
    """A validation loss of step 5 is not that of the 10 steps which the row speaks of."""
    whole = [{"step": s, "val_loss": 3.0} if s % 5 == 0 else {"step": s} for s in range(1, 11)]
    for name, rows in (("a", whole), ("b", whole[:9])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, _, notes = gather(str(tmp_path))
    assert notes == ["the last val_loss stands before the last step in b (5 of 9)"]


def test_many_logs_in_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, in the same order, as json.loads gives, whatever falls into one batch."""
    monkeypatch.setattr("analysis.metrics._BATCH", 2000)
    rng, expected, paths = np.random.default_rng(0), [], []
    for i in range(40):
        rows = [{"step": s, "loss": float(x)} for s, x in enumerate(rng.random(int(rng.integers(0, 9))))]
        if i == 17:
            rows.append({"step": 99, "loss": float("nan"), "note": "late"})
        paths.append(tmp_path / f"{i}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
        expected += [(str(i), row["step"], row["loss"]) for row in rows]
    frame, notes = read_logs(paths, [path.stem for path in paths])
    assert notes == []
    found = list(zip(frame["run"].astype(str), frame["step"], frame["loss"], strict=True))
    np.testing.assert_array_equal(
        pd.DataFrame(found).to_numpy(object)[:, :2], pd.DataFrame(expected).to_numpy(object)[:, :2]
    )
    np.testing.assert_array_equal([row[2] for row in found], [row[2] for row in expected])


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-one runs logged offline by the real client, in a process of its own."""
    folder = tmp_path_factory.mktemp("offline")
    code = """
import json, sys, wandb
for i, (n, d, loss) in enumerate(json.load(open("sizes.json"))):
    run = wandb.init(mode="offline", project="laws", id=f"r{i:02d}", name=f"size {i}", group="g", dir=".",
        config={"n_params": n, "opt": {"lr": 1e-3}, "loss": "huber"}, reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True,
        disable_code=True))
    for s in (1, 2):
        run.log({"train/tokens": d * s / 2, "val": {"loss": loss + 2 - s}, "text": "x" * 20_000})
    run.finish(exit_code=int(i == 3))
"""
    (folder / "sizes.json").write_text(json.dumps([(n, d, law(n, d)) for n, d in sizes(21)]))
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder


def test_an_offline_wandb_project_is_read_back_whole(offline: Path) -> None:
    table, kind, notes = gather(str(offline / "wandb"))
    assert (kind, notes, len(table)) == ("wandb", [], 21)
    assert table["run"].tolist() == [f"r{i:02d}" for i in range(21)]
    assert table["status"].tolist() == ["failed" if i == 3 else "done" for i in range(21)]
    np.testing.assert_array_equal(table["n_params"], [n for n, _ in sizes(21)])
    np.testing.assert_array_equal(table["train/tokens"], [d for _, d in sizes(21)])
    # wandb itself rounds a number's last digit.
    np.testing.assert_allclose(table["val.loss"], [law(n, d) for n, d in sizes(21)], rtol=1e-14)
    assert set(table["opt.lr"]) == {1e-3} and set(table["group"]) == {"g"}
    curves, _, _ = gather(str(offline), curves=True)
    assert len(curves) == 42 and curves["val.loss"].notna().all()
    runs = load(str(offline / "wandb"), Reading())
    assert len(runs.runs) == 20 and runs.dropped == [{"run": "r03", "reason": "status failed"}]


def test_a_wandb_log_agrees_with_wandbs_own_reader(offline: Path) -> None:
    log = wandb_files.find_logs(offline)[5]
    shown = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = json.loads(shown.stdout)
    ours = wandb_files.read_logs([log])[0].iloc[0]
    assert theirs["run_id"] == ours["run_id"] and theirs["state"] == "finished"
    assert theirs["config"]["n_params"] == ours["n_params"]
    assert theirs["summary"]["train/tokens"] == ours["train/tokens"]


@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_a_wandb_log_cut_short(kept: float, offline: Path, tmp_path: Path) -> None:
    log = wandb_files.find_logs(offline)[0]
    shutil.copy(log, tmp_path / log.name)
    text = log.read_bytes()
    (tmp_path / log.name).write_bytes(text[: int(kept * len(text))])
    table, notes = wandb_files.read_logs([tmp_path / log.name])
    assert table["status"].tolist() == ["crashed"] and table["n_params"].tolist() == [sizes(21)[0][0]]
    assert len(notes) == 1 and "cut short" in notes[0]


def test_a_file_that_is_no_wandb_log(tmp_path: Path) -> None:
    (tmp_path / "run-x.wandb").write_bytes(b"PK something else entirely")
    with pytest.raises(UserError, match="not a wandb log"):
        gather(str(tmp_path))


def test_two_losses_of_one_name_are_not_taken_for_each_other() -> None:
    notes: list[str] = []
    row = row_of("a", "a", None, "finished", {"loss": 3.0, "tokens": 5}, {"loss": 2.5, "tokens": 7}, notes)
    assert (row["config.loss"], row["summary.loss"], row["tokens"]) == (3.0, 2.5, 7) and "loss" not in row
    assert len(notes) == 1 and "config.loss" in notes[0]
    named = row_of("a", "a", None, "finished", {"loss": "cross entropy"}, {"loss": 2.5}, notes)
    assert named["loss"] == 2.5
    with pytest.raises(UserError, match=r"two values of one name in its summary \(val.loss"):
        row_of("a", "a", None, "finished", {}, {"val.loss": 2.0, "val": {"loss": 3.0}}, notes)


def test_two_losses_in_a_project_make_one_question(server: FakeWandb) -> None:
    for i, (n, d) in enumerate(sizes(12)):
        server.add(f"r{i}", {"n_params": n, "tokens": d, "loss": 9.0}, {"loss": law(n, d)})
    with pytest.raises(UserError, match="which column is loss"):
        load("wandb:lab/laws", Reading())
    runs = load("wandb:lab/laws", Reading(loss="summary.loss", n="n_params", d="tokens"))
    np.testing.assert_allclose(runs.column("loss"), [law(n, d) for n, d in sizes(12)])
    assert "summary.loss" in runs.notes[0]
    assert len(load_project("lab/laws")) == 12


def test_the_column_map_is_shown_saved_and_gone_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"Model Params": n / 1e6, "seen": d, "eval-loss": law(n, d), "loss": 9.9} for n, d in sizes(12)]
    pd.DataFrame(rows).to_csv(tmp_path / "theirs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    flags = ["--n", "Model Params", "--unit", "n=M", "--d", "seen", "--loss", "eval-loss"]
    shown = CliRunner().invoke(app, ["import", "theirs.csv", "--out", "runs.parquet", *flags])
    assert shown.exit_code == 0 and "Model Params (M), named" in shown.stdout
    stored = json.loads(map_path(Path("runs.parquet")).read_text())
    assert stored["roles"]["n"] == {"column": "Model Params", "unit": "M", "by": "flag"}
    runs = load("runs.parquet", Reading())
    np.testing.assert_allclose(runs.column("n"), [n for n, _ in sizes(12)])
    np.testing.assert_allclose(runs.column("loss"), [law(n, d) for n, d in sizes(12)])
    assert "eval-loss as loss" in runs.notes[0]
    machine = CliRunner().invoke(app, ["import", "theirs.csv", "--out", "b.csv", "--json"])
    answer = json.loads(machine.stdout)
    assert set(answer["undecided"]) == {"n", "d", "loss"}
    assert answer["undecided"]["loss"] == ["eval-loss", "loss"]


@pytest.mark.parametrize(
    ("source", "words"),
    [("missing", "does not exist"), ("empty", "holds no runs"), ("wandb:lab/laws --curves", "--curves")],
)
def test_what_cannot_be_imported(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    name, _, curves = source.partition(" ")
    with pytest.raises(UserError, match=words):
        gather(name, bool(curves))


def test_kinds_and_names(tmp_path: Path) -> None:
    assert kind_of(put(tmp_path / "t" / NAME, SCALARS)) == "tensorboard"
    assert plain("Val/Loss") == plain("val.loss") == plain("val-loss") == "val_loss"
    assert plain("config.n_params") == "n_params" and plain("config") == "config"
