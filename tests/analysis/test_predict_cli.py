"""`scaling predict` as it is called."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import synthetic_study as study

from analysis.columns import Reading
from analysis.fit import fit, save
from analysis.table import from_frame, load
from scaling.accounting import counts, run_flops
from scaling.cli.main import main
from scaling.config import load_run_config

FORBIDDEN = ("jax", "flax", "optax", "orbax", "tensorflow_datasets", "tensorflow", "wandb", "matplotlib")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with points.csv, fits/losses.json of a table and fits/quickstart.json of runs."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    n = np.exp(rng.uniform(np.log(1e7), np.log(1e9), 40))
    d = 20 * n * np.exp(rng.uniform(-1.5, 1.5, 40))
    loss = (1.7 + 400 / n**0.34 + 600 / d**0.3) * np.exp(0.003 * rng.standard_normal(40))
    frame = pd.DataFrame({"n": n, "d": d, "loss": loss})
    table = from_frame(frame, Reading(), "losses.csv", "losses")
    save(fit(table, ["chinchilla", "kaplan_n"], resamples=50), folder / "fits")
    runs = study.write_study(folder / "runs" / "quickstart", noise=0.003)
    save(fit(load(str(runs)), ["chinchilla"], resamples=50), folder / "fits")
    (folder / "points.csv").write_text("n,d\n1e8,2e9\n")
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def said(here, monkeypatch, capsys):
    """said("losses", "--flops", "1e22"): standard output of a call that succeeds."""

    def call(*arguments):
        assert run(monkeypatch, *arguments) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def answered(said):
    """The same with --json, parsed strictly."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return lambda *arguments: json.loads(said(*arguments, "--json"), parse_constant=refuse)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["scaling", "predict", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_budget(answered, said):
    found = answered("losses", "--flops", "1e22", "--at", "points.csv")
    n, d = found["optimum"]["n"], found["optimum"]["d"]
    assert 6 * n * d == pytest.approx(1e22, rel=1e-12) and found["flops"] == 1e22
    assert found["loss"] == pytest.approx(1.7 + 400 / n**0.34 + 600 / d**0.3, rel=0.02)
    assert found["points"][0]["loss"] == pytest.approx(1.7 + 400 / 1e8**0.34 + 600 / 2e9**0.3, rel=0.01)
    assert found["run"] is None and found["warnings"][0]["factor"] > 1
    text = said("losses", "--flops", "1e22", "--at", "points.csv")
    assert text.startswith("1e+22 FLOPs: train ") and "straight line" in text and "row 1" in text
    assert "outside the fitted runs" in text and max(map(len, text.splitlines())) <= 100


def test_the_same_money_in_three_ways(answered):
    """A chip-hour of an H100 at 50% of 9.89e14 FLOP/s for $2."""
    hours = 1e22 / (3600 * 9.89e14 * 0.5)
    terms = ("--utilisation", "0.5", "--price", "2")
    by = [
        answered("losses", *budget, *terms)
        for budget in (("--flops", "1e22"), ("--chip-hours", hours), ("--cost", 2 * hours))
    ]
    for found in by:
        assert found["optimum"]["n"] == pytest.approx(by[0]["optimum"]["n"], rel=1e-9)
        assert found["price"]["dollars"] == pytest.approx(2 * hours)
        assert found["price"]["chip_hours"] == pytest.approx(hours)
        assert found["price"]["mwh"] == pytest.approx(hours * 700 * 1.1 / 1e6)


def test_thirteen_billion_and_two_trillion_served(answered, said):
    """Sardana et al. 2023, figure 1; at Hoffmann's printed exponents the answer is another one."""
    found = answered("sardana", "--model", "13B", "--infer-tokens", "2T")
    assert found["model"]["d"] == pytest.approx(577e9, rel=2e-3)
    assert found["optimum"]["n"] == pytest.approx(7e9, rel=0.01)
    assert found["optimum"]["d"] == pytest.approx(1.25e12, rel=0.01)
    assert found["instead"]["saved"] == pytest.approx(1.69e22, rel=2e-3)
    assert found["instead"]["saved_share"] == pytest.approx(0.17, abs=0.005)
    spelled = answered(
        "A=406.4,B=410.7,E=1.69,alpha=.336,beta=.283", "--model", "13B", "--infer-tokens", "2T"
    )
    assert spelled["optimum"] == found["optimum"] and spelled["interval"] is None
    rounded = answered("chinchilla", "--model", "13e9", "--infer-tokens", "2e12")
    assert rounded["optimum"]["n"] == pytest.approx(8.0e9, rel=0.01)
    assert rounded["instead"]["saved_share"] == pytest.approx(0.10, abs=0.005)
    assert "for 17.4% less" in said("sardana", "--model", "13B", "--infer-tokens", "2T")


@pytest.mark.parametrize(("name", "ratio"), [("chinchilla", 93), ("sardana", 55)])
def test_printed_constants_at_chinchillas_budget(answered, name, ratio):
    found = answered(name, "--flops", "5.76e23")
    assert found["optimum"]["tokens_per_parameter"] == pytest.approx(ratio, abs=0.5)
    assert found["optimum"]["n_interval"] is None


def test_a_run_config_that_spends_the_budget(said, here):
    text = said("quickstart", "--flops", "2.3e12", "--run-config", "run.json", "--seed", "3")
    config = load_run_config((here / "run.json").read_text())
    assert config.run_id in text and config.seed == 3
    assert 2.3e12 <= run_flops(config) < 2.5e12


def test_a_model_gets_a_run_config_of_its_own_shape(said, answered, here):
    said("quickstart", "--flops", "2.3e12", "--run-config", "run.json")
    config = load_run_config((here / "run.json").read_text())
    found = answered("quickstart", "--model", "run.json", "--run-config", "again.json")
    again = load_run_config((here / "again.json").read_text())
    assert again.run_id == config.run_id
    assert found["model"]["n"] == counts(config.model, config.seq_len).n["total"]
    assert found["model"]["regret"] >= 0 and found["model"]["interval"][0] < found["model"]["loss"]


def test_scarce_text_is_repeated_in_the_run_config(answered, here):
    found = answered("quickstart", "--flops", "2.3e12", "--unique-tokens", "200k", "--run-config", "few.json")
    data = load_run_config((here / "few.json").read_text()).data
    assert data.unique_tokens == 200_000 and data.epochs >= found["text"]["epochs"] > 1
    plenty = answered("quickstart", "--flops", "2.3e12", "--unique-tokens", "1T")
    assert plenty["optimum"]["n"] == pytest.approx(
        answered("quickstart", "--flops", "2.3e12")["optimum"]["n"]
    )


def test_points_keep_their_columns_and_order(answered, here):
    table = pd.DataFrame(
        {
            "who": ["b", "a", "a", "c"], "params": [100.0, 10, 10, 1000], "flops": [1e20, 1e18, 1e18, 1e21],
            "status": ["done", "failed", "failed", "running"], "note": ["x", None, None, "z"],
        }
    )  # fmt: skip
    table.to_csv(here / "sizes.csv", index=False)
    found = answered("losses", "--at", "sizes.csv", "--unit", "n=M", "--out", "out.csv")
    written = pd.read_csv(here / "out.csv")
    pd.testing.assert_frame_equal(written[list(table)], pd.read_csv(here / "sizes.csv"))
    assert len(found["points"]) == 4
    for point, n, c in zip(found["points"], table["params"] * 1e6, table["flops"], strict=True):
        assert point["n"] == n and point["d"] == pytest.approx(c / (6 * n))
    np.testing.assert_allclose(written["predicted_loss"], [point["loss"] for point in found["points"]])
    np.testing.assert_allclose(written["predicted_low_90"], [p["interval"][0] for p in found["points"]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("losses",), "--flops"),
        (("losses", "--flops", "-1"), "--flops"),
        (("losses", "--flops", "0"), "--flops"),
        (("losses", "--flops", "much"), "--flops"),
        (("losses", "--at", "none.csv"), "does not exist"),
        (("losses", "--flops", "1e22", "--run-config", "run-of-table.json"), "no RunConfig"),
        (("nothing.json", "--flops", "1e22"), "does not exist"),
        (("nothing", "--flops", "1e22"), "scaling fit"),
        (("losses", "--flops", "1e22", "--cost", "5M"), "two questions"),
        (("losses", "--flops", "1e22", "--loss", "2"), "two questions"),
        (("losses", "--loss", "1.2"), "below which no size"),
        (("losses", "--loss", "-1"), "--loss"),
        (("losses", "--loss", "1.9", "--unique-tokens", "1M"), "however often repeated"),
        (("losses", "--cost", "1M", "--price", "0"), "--price is 0"),
        (("losses", "--flops", "1e22", "--token-price", "0"), "--token-price is 0"),
        (("losses", "--cost", "1M", "--hardware", "tpu7x"), "--price"),
        (("losses", "--flops", "1e22", "--hardware", "abacus"), "abacus"),
        (("losses", "--flops", "1e22", "--utilisation", "1.5"), "--utilisation"),
        (("losses", "--flops", "1e22", "--devices", "0"), "--devices"),
        (("losses", "--flops", "1e22", "--decode-utilisation", "0.1"), "--infer-tokens"),
        (("losses", "--flops", "1e22", "--infer-tokens", "1T", "--decode-share", "2"), "--decode-share"),
        (("losses", "--flops", "1e3", "--infer-tokens", "1T"), "larger budget"),
        (("losses", "--model", "7B,1T", "--flops", "1e22"), "fix them again"),
        (("losses", "--model", "7B,many"), "--model"),
        (("losses", "--model", "1M", "--loss", "2"), "come no lower"),
        (("losses", "--flops", "1e22", "--law", "kaplan_n"), "--at alone"),
        (("losses", "--flops", "1e22", "--law", "moe"), "holds"),
        (("losses", "--out", "x.csv", "--flops", "1e22"), "--at"),
        (("losses", "--at", "points.csv", "--unique-tokens", "5B"), "needs a budget"),
        (("A=1,B=2", "--flops", "1e22"), "alpha"),
        (("A=1,B=2,E=x,alpha=.3,beta=.3", "--flops", "1e22"), "number"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(here, monkeypatch, capsys, arguments, words):
    assert run(monkeypatch, *arguments) == 2
    streams = capsys.readouterr()
    error = streams.err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error and not streams.out
    assert not (here / "run-of-table.json").exists()


def test_predicting_imports_no_training_code_and_no_figures(here):
    code = (
        "import sys; sys.argv = ['scaling', 'predict', 'losses', '--flops', '1e22', '--json']\n"
        "from scaling.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stderr.splitlines()
    assert "analysis.answer" in modules and not {name.split(".")[0] for name in modules} & set(FORBIDDEN)
    ours = ("scaling.train", "scaling.model", "launch", "sweeps", "experiments")
    assert not [name for name in modules if name.startswith(ours)]
