"""`scaling fit` as it is called."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.laws import LAWS
from scaling.cli.main import main

FORBIDDEN = ("jax", "flax", "optax", "orbax", "tensorflow_datasets", "tensorflow", "wandb")


def write_losses(folder):
    """40 runs within 0.3% of a law."""
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e7), np.log(1e9), 40))
    d = 20 * n * np.exp(rng.uniform(-1.5, 1.5, 40))
    loss = (1.7 + 400 / n**0.34 + 600 / d**0.3) * np.exp(0.003 * rng.standard_normal(40))
    frame = pd.DataFrame({"params": n, "tokens": d, "val_loss": loss})
    frame.to_csv(folder / "losses.csv", index=False)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """losses.csv in the working directory."""
    write_losses(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    """The command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


NAMED = ("--n", "params", "--d", "tokens", "--loss", "val_loss", "--bootstrap", "50")


def test_text_says_laws_intervals_certificates_and_files(table, monkeypatch, capsys):
    assert run(monkeypatch, "fit", "losses.csv", *NAMED) == 0
    said = capsys.readouterr().out
    for words in ("kaplan_n", "chinchilla", "alpha", "certified", "huber 0.001", "N as given", "1 envelope"):
        assert words in said
    for suffix in ("json", "png", "pdf"):
        assert f"fits/losses.{suffix}" in said
        assert (table / "fits" / f"losses.{suffix}").stat().st_size > 1000


def test_json_is_one_object_and_notes_stay_off_it(table, monkeypatch, capsys):
    assert run(monkeypatch, "fit", "losses.csv", "--bootstrap", "50", "--out", "elsewhere", "--json") == 0
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    parameters = found["laws"]["chinchilla"]["parameters"]
    assert set(parameters) == {"A", "B", "E", "alpha", "beta"}
    assert all(type(value) is float for value in parameters.values())
    assert parameters["alpha"] == pytest.approx(0.34, abs=0.03)
    assert "columns found by name" in streams.err
    written = json.loads((table / "elsewhere" / "losses.json").read_text())
    assert written["laws"] == found["laws"]


def test_one_law_and_another_objective(table, monkeypatch, capsys):
    arguments = ("--law", "kaplan_c", "--law", "chinchilla", "--objective", "lsq", "--json")
    assert run(monkeypatch, "fit", "losses.csv", *NAMED, *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["laws"]) == {"kaplan_c", "chinchilla"}
    assert found["objective"]["name"] == "lsq"


def test_the_laws_are_listed_with_the_flags_they_read(monkeypatch, capsys):
    assert run(monkeypatch, "fit", "--laws") == 0
    said = capsys.readouterr().out
    for name, law in LAWS.items():
        assert name in said and law.source.split(",")[0] in said
    assert "--n --d --unique -> --loss" in said and "--steps --lr --run -> --loss" in said
    assert run(monkeypatch, "fit", "--laws", "--json") == 0
    assert {law["name"] for law in json.loads(capsys.readouterr().out)["laws"]} == set(LAWS)


def test_a_law_of_other_columns_than_n_and_d(table, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(7, 9, 20), 10 ** rng.uniform(9, 11, 20)
    lr = 1.79 * n**-0.713 * d**0.307  # StepLaw, as printed
    frame = pd.DataFrame({"size": n / 1e6, "data": d / 1e9, "best": lr * np.exp(rng.normal(0, 0.01, 20))})
    frame.to_csv(table / "rates.csv", index=False)
    columns = ("--n", "size", "--n-unit", "M", "--d", "data", "--d-unit", "B", "--lr", "best")
    arguments = (*columns, "--law", "lr_nd", "--objective", "lsq", "--bootstrap", "30", "--json")
    assert run(monkeypatch, "fit", "rates.csv", *arguments) == 0
    found = json.loads(capsys.readouterr().out)
    law = found["laws"]["lr_nd"]
    assert law["parameters"]["u"] == pytest.approx(-0.713, abs=0.01)
    assert law["intervals"]["v"] == [pytest.approx(0.307, abs=0.02)] * 2
    assert isinstance(law["objective"], float) and law["certificate"]["converged"]
    assert (table / "fits" / "rates.png").exists()
    assert run(monkeypatch, "fit", "rates.csv", *columns[:-2], "--law", "lr_nd") == 2
    assert "which column is lr, which lr_nd reads? Give --lr" in capsys.readouterr().err


OWN_LAW = """
from analysis.law import Law, Parameter
WIDTH = Law(
    name="width", formula="L(w) = E + k / w^g", source="a test", inputs=("width",),
    parameters=(
        Parameter("E", "floor", "nats/token", "floor", 0, 10),
        Parameter("k", "scale", "", "size", 0, float("inf"), power=("g", "width")),
        Parameter("g", "exponent", "", "exponent", 0, 3),
    ),
    function=lambda p, x: p.E + p.k * x.width**-p.g, linear=("E", "k"),
)
"""


def test_a_law_of_ones_own_file(table, monkeypatch, capsys):
    (table / "mine.py").write_text(OWN_LAW)
    width = np.geomspace(32, 2048, 12)
    noise = np.exp(np.random.default_rng(2).normal(0, 1e-3, 12))
    pd.DataFrame({"d_model": width, "loss": (2 + 30 * width**-0.6) * noise}).to_csv("w.csv", index=False)
    wanted = ("fit", "w.csv", "--law", "mine.py:WIDTH", "--bootstrap", "30")
    assert run(monkeypatch, *wanted, "--column", "width=d_model") == 0
    said = capsys.readouterr().out
    assert "L(w) = E + k / w^g" in said and "certified" in said and "Growth with compute" not in said
    assert run(monkeypatch, *wanted) == 2
    assert "--column width=COLUMN" in capsys.readouterr().err
    assert run(monkeypatch, "fit", "w.csv", "--law", "mine.py:WIDE") == 2
    assert "it has WIDTH" in capsys.readouterr().err


def test_constants_held_and_noise_known(table, monkeypatch, capsys):
    wanted = ("fit", "losses.csv", *NAMED, "--law", "chinchilla", "--json")
    assert run(monkeypatch, *wanted, "--fix", "E=1.7", "--noise", "0.01", "--space", "raw") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["laws"]["chinchilla"]["parameters"]["E"] == 1.7
    assert found["objective"]["space"] == "raw" and found["laws"]["chinchilla"]["fixed"] == ["E"]
    assert run(monkeypatch, *wanted, "--noise", "-1") == 2
    assert "--noise" in capsys.readouterr().err


def test_rows_that_no_law_can_be_fitted_to(table, monkeypatch, capsys):
    n = np.geomspace(1e7, 1e9, 8)
    d = 1e19 / 6 / n
    pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 600 / d**0.3}).to_csv("one.csv", index=False)
    for arguments in (("one.csv",), ("one.csv", "--law", "chinchilla")):
        assert run(monkeypatch, "fit", *arguments) == 2
        assert "needs two budgets or more, has one (1e+19 FLOPs)" in capsys.readouterr().err
    pd.DataFrame({"n": n[:3], "d": n[:3] * 20, "loss": [4.0, 3.5, 3.2]}).to_csv("few.csv", index=False)
    assert run(monkeypatch, "fit", "few.csv", "--law", "chinchilla") == 2
    assert "needs 6 rows, has 3" in capsys.readouterr().err
    assert not (table / "fits").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("losses.csv", "--n", "parms", "--d", "tokens", "--loss", "val_loss"), "close: params"),
        (("losses.csv", "--objective", "mse"), "--objective"),
        (("losses.csv", "--law", "mystery"), "--law"),
        (("losses.csv", "--bootstrap", "3"), "--bootstrap"),
        (("losses.csv", "--n-unit", "m"), "--n-unit"),
        (("losses.csv", "--space", "linear"), "--space"),
        (("losses.csv", "--fix", "E"), "--fix"),
        (("losses.csv", "--unit", "unique=X"), "--unit unique=X"),
        (("losses.csv", "--where", "tokens"), "--where"),
        (("losses.csv", "--law", "chinchilla", "--law", "tissue"), "fit them apart"),
        ((), "--laws"),
        (("none.csv",), "does not exist"),
        ((".",), "no run folders"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(table, monkeypatch, capsys, arguments, words):
    assert run(monkeypatch, "fit", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (table / "fits").exists()


def test_fitting_imports_neither_jax_nor_training_code(table):
    code = (
        "import sys; sys.argv = ['scaling', 'fit', 'losses.csv', '--bootstrap', '20', '--json']\n"
        "from scaling.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stderr.splitlines()
    assert "analysis.fit" in modules and "matplotlib" in modules
    roots = {name.split(".")[0] for name in modules}
    assert not roots & set(FORBIDDEN)
    ours = ("scaling.train", "scaling.model", "launch", "sweeps", "experiments")
    assert not [name for name in modules if name.startswith(ours)]
