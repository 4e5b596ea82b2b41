"""The studies of transfer: what is varied and what is not, and their cells."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from test_quickstart_study import GOLDEN, table

from experiments import depth_transfer, mup_transfer
from scaling.errors import UserError
from scaling.parametrisation import of_run
from sweeps.plan import cells, totals

STUDIES = {"mup_transfer": mup_transfer, "depth_transfer": depth_transfer}


@pytest.mark.parametrize("name", STUDIES)
def test_the_cells_are_those_of_the_golden_table(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SCALING_GOLDEN") == "write":
        path.write_text(table(STUDIES[name].sweep()))
    assert table(STUDIES[name].sweep()) == path.read_text()


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("size", ["cpu", "pod"])
def test_shape_rate_and_seed_are_all_that_differs(name: str, size: str) -> None:
    found = STUDIES[name].sweep(size=size)
    assert not found.refused and len(found.runs) == len(set(found.runs))
    assert {run.seed for run in found.runs} == {0, 1, 2}
    one = found.runs[0]
    for run in found.runs:
        same = replace(
            run, seed=one.seed, model=one.model, optimizer=replace(run.optimizer, lr=one.optimizer.lr)
        )
        names = ("parametrisation", "base_d_model", "base_d_head", "base_n_layers")
        assert replace(same, **{field: getattr(one, field) for field in names}) == one
    assert not {run.seed for run in STUDIES[name].sweep(seed=1).runs} & {0, 1, 2}
    with pytest.raises(UserError, match="size is 'phone'; choose from cpu, pod"):
        STUDIES[name].sweep(size="phone")


def test_widths_span_eightfold_and_depths_fourfold_at_one_rate_of_the_base() -> None:
    wide = [run for run in mup_transfer.sweep().runs if run.parametrisation == "mup"]
    assert {of_run(run).width for run in wide} == {1, 2, 4, 8} and {of_run(run).head for run in wide} == {1}
    deep = [run for run in depth_transfer.sweep().runs if run.parametrisation == "completep"]
    assert {of_run(run).depth for run in deep} == {1, 2, 4} and {of_run(run).width for run in deep} == {1}


def test_each_ends_in_a_quarter_of_an_hour_of_one_core() -> None:
    for study in STUDIES.values():
        assert totals(cells(study.sweep()))["flops_trained"] < 3e10 * 15 * 60  # 30 GFLOP/s, one core
