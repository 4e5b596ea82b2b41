"""The verdict on a fitted E, on losses made to order."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic_study

from experiments import known_entropy


@pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (0.2, 1)])
def test_the_verdict_follows_the_losses(
    shift: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = {"A": 45.0, "B": 150.0, "E": known_entropy.SOURCE.entropy + shift, "alpha": 0.6, "beta": 0.6}
    monkeypatch.setattr(synthetic_study, "TRUTH", truth)
    root = synthetic_study.write_study(tmp_path, noise=1e-4, target=False)
    assert known_entropy.compare(str(root)) == code
    assert float(capsys.readouterr().out.split("error")[1].split()[0]) == pytest.approx(shift, abs=2e-3)
