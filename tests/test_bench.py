"""The tables of `make bench`: a row for each thing measured, a column for each unit, medians and extremes."""

from __future__ import annotations

import pytest

from benchmarks import run


def test_units_become_columns_and_repeats_a_median() -> None:
    rows = [
        {"what": "small", "unit": "tokens/s", "values": [1000.0, 3000.0, 2000.0]},
        {"what": "small", "unit": "GB", "values": [0.5]},
        {"what": "large", "unit": "GB", "values": [1.25, 1.25]},
    ]
    assert run.table(rows).splitlines() == [
        "|  | tokens/s | GB |",
        "| --- | ---: | ---: |",
        "| small | 2,000 (1,000 to 3,000) | 0.5 |",
        "| large |  | 1.25 |",
    ]


def test_an_unknown_benchmark_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match="no benchmark speed; choose from step, "):
        run.main(["speed"])


def test_what_is_missing_is_said_and_a_failure_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "step": {"missing": "It ended with exit code 1.", "failed": True},
        "peers": {"missing": "Left out: PyTorch is not installed here.", "failed": False},
    }
    monkeypatch.setattr(run, "measure", answers.__getitem__)
    assert run.main(["step", "peers"]) == 1
    said = capsys.readouterr()
    assert "### peers\n\nLeft out: PyTorch is not installed here." in said.out
    assert said.err == "failed: step\n"
