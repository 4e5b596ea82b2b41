"""Sweeps as data: what is stored is what was made, and names find it again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from scaling.config import DataConfig, RunConfig, dump_run_config
from scaling.errors import UserError
from scaling.recipes import RECIPES
from sweeps.sweep import Refusal, Sweep, find_sweep, read_sweep, study_options

RECIPE = next(iter(RECIPES.values()))
DATA = DataConfig(name="text", fingerprint="0123456789abcdef")


def run(tokens: float = 1e5, seed: int = 0) -> RunConfig:
    return RECIPE.run(RECIPE.model(32), DATA, tokens, seed)


def small() -> Sweep:
    design = {"kind": "by hand", "cells": [{"label": "one", "budget": 6e9}, {"label": "two"}]}
    refused = (Refusal("three", "too dear"),)
    return Sweep("study-1", "Which?", design, (run(), run(seed=1)), refused)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    small().write(tmp_path / "sweep.json")
    again = read_sweep(tmp_path / "sweep.json")
    assert again == small()
    assert again.run_ids == small().run_ids
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]  # no temporary left


def test_json_names_each_run_by_the_hash_of_its_config() -> None:
    values = small().to_json()
    assert values["run_ids"] == [run().run_id, run(seed=1).run_id]
    assert values["runs"][1]["seed"] == 1


def test_labels_and_budgets_come_from_the_design_or_from_the_runs() -> None:
    assert small().labels() == ("one", "two")
    assert small().budgets() == (6e9, None)
    bare = dataclasses.replace(small(), design={})
    assert bare.labels() == (f"d32-{run().tokens:.3g}",) * 2
    assert bare.budgets() == (None, None)


def test_a_run_that_stands_twice_is_refused() -> None:
    with pytest.raises(UserError, match=f"runs 1 and 3 .*{run().run_id}"):
        Sweep("s", "?", {}, (run(), run(seed=1), run()))


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="sweep name"):
        Sweep(name, "?", {}, (run(),))


def test_a_sweep_without_runs_is_refused() -> None:
    with pytest.raises(UserError, match="no run"):
        Sweep("s", "?", {}, ())


def test_an_edited_config_no_longer_has_its_recorded_id() -> None:
    values = small().to_json()
    values["runs"][1]["optimizer"]["lr"] = 0.5
    with pytest.raises(UserError, match=r"runs\[1\] hashes to"):
        Sweep.from_json(values)
    del values["run_ids"]
    assert Sweep.from_json(values).runs[1].optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"runs": None}, "no field 'runs'"),
        ({"runs": [{"model": {"depth": 3}}]}, "runs\\[0\\].model.depth"),
        ({"runs": 3}, "runs is 3; give a list"),
        ({"design": "isoflop"}, "design is 'isoflop'; give an object"),
        ({"refused": [{"label": "x"}]}, "refused.reason"),
    ],
)
def test_a_malformed_sweep_is_named(change: dict, said: str) -> None:
    values = small().to_json() | change
    if values["runs"] is None:
        del values["runs"]
    with pytest.raises(UserError, match=said):
        Sweep.from_json(values)


def test_a_file_that_is_not_json_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"name": ')
    with pytest.raises(UserError, match="is not JSON"):
        read_sweep(tmp_path / "sweep.json")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    small().write(tmp_path / "launched-one" / "sweep.json")
    with pytest.raises(UserError, match=r"no sweep 'quickstrat'.*launched-one.*quickstart"):
        find_sweep("quickstrat", tmp_path)


def test_a_launched_sweep_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    small().write(tmp_path / "study-1" / "sweep.json")
    assert find_sweep("study-1", tmp_path) == small()
    assert find_sweep(tmp_path / "study-1" / "sweep.json") == small()
    with pytest.raises(UserError, match="'seed' is not for it"):
        find_sweep("study-1", tmp_path, seed=3)


def test_the_config_of_one_run_is_a_sweep_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text(dump_run_config(run()))
    found = find_sweep(tmp_path / "target.json", data="where/its/text/lies")
    assert (found.name, found.runs) == ("target", (run(),))
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "config.json").write_text(dump_run_config(run(seed=2)))
    assert read_sweep(tmp_path / "abc" / "config.json").name == "abc"


def test_a_study_in_a_file_takes_its_own_options(tmp_path: Path) -> None:
    small().write(tmp_path / "made.json")
    study = tmp_path / "mine.py"
    study.write_text(
        "from sweeps.sweep import read_sweep\n"
        "import dataclasses\n"
        "def sweep(name='mine'):\n"
        f"    return dataclasses.replace(read_sweep({str(tmp_path / 'made.json')!r}), name=name)\n"
    )
    assert study_options(study) == {"name"}
    assert find_sweep(study, name=None).name == "mine"
    assert find_sweep(study, name="yours").name == "yours"
    with pytest.raises(UserError, match="takes no option 'width'"):
        find_sweep(study, width=3)
    study.write_text("x = 1\n")
    with pytest.raises(UserError, match="no function `sweep`"):
        find_sweep(study)


def test_the_same_call_makes_the_same_runs() -> None:
    first, second = find_sweep("quickstart", seed=7), find_sweep("quickstart", seed=7)
    assert first.run_ids == second.run_ids
    assert json.dumps(first.to_json()) == json.dumps(second.to_json())
    assert not set(first.run_ids) & set(find_sweep("quickstart", seed=8).run_ids)
