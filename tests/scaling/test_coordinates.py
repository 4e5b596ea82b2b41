"""The coordinate check at a size for every commit: what passes, and that what is wrong does not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.activations import BAR, Slope, slopes
from scaling.cli.main import app
from scaling.config import dump_run_config
from scaling.coordinates import LAYERS, at_widths, default_config, measure, shapes
from scaling.errors import UserError
from scaling.parametrisation import Name, of_run

CONFIG = default_config()


def found(name: Name, axis: str, sizes: tuple[int, ...]) -> dict[str, float]:
    """Slopes by layer type after four steps, of a model of one layer where widths vary."""
    model = dataclasses.replace(CONFIG.model, n_layers=1, d_model=32, n_heads=2, n_kv_heads=2, d_ff=88)
    rows = measure(dataclasses.replace(CONFIG, model=model), name, axis, sizes, seeds=2)
    return {one.layer: float(one.slope or 9) for one in slopes(rows)}


WIDTHS, DEPTHS = (32, 256), (2, 8)


def test_mup_keeps_every_activation_in_width() -> None:
    sizes = found("mup", "width", WIDTHS)
    assert set(sizes) == set(LAYERS)
    assert max(abs(slope) for slope in sizes.values()) < BAR, sizes


def test_standard_grows_in_width() -> None:
    # Measured: attention out .65, MLP out 1.08, residual .86, logits 1.23; mup's are all within .05.
    sizes = found("standard", "width", WIDTHS)
    assert min(sizes[layer] for layer in ("attention_out", "mlp_out", "residual", "logits")) > 0.5, sizes


def test_completep_keeps_every_activation_in_depth_where_mup_does_not() -> None:
    flat = found("completep", "depth", DEPTHS)
    assert max(abs(slope) for slope in flat.values()) < BAR, flat
    # Measured .79; completep's is -.15, that of initial branches which add up like a random walk.
    assert found("mup", "depth", DEPTHS)["residual"] > 0.5


def test_widths_grow_by_heads_or_where_these_do_not_divide_by_their_size() -> None:
    model = CONFIG.model
    heads = at_widths(model, (64, 128))
    assert [(m.n_heads, m.n_kv_heads, m.d_head, m.d_ff) for m in heads] == [(4, 4, 16, 192), (8, 8, 16, 384)]
    one_key_head = at_widths(dataclasses.replace(model, n_kv_heads=1), (64, 128))
    assert [(m.n_heads, m.n_kv_heads) for m in one_key_head] == [(4, 1), (8, 1)]
    odd = at_widths(dataclasses.replace(model, n_heads=3, n_kv_heads=3), (64, 128, 32))
    assert [(m.n_heads, m.d_head) for m in odd] == [(3, 16), (3, 32), (3, 8)]
    with pytest.raises(UserError, match="widths 64, 100 leave neither whole heads"):
        at_widths(model, (64, 100))


def test_a_base_that_the_config_names_is_kept() -> None:
    model = dataclasses.replace(CONFIG.model, d_model=256, n_heads=16, n_kv_heads=16)
    own = dataclasses.replace(CONFIG, model=model, parametrisation="mup", base_d_model=128, base_d_head=16)
    assert [of_run(run).width for run in shapes(own, "mup", "width", (64, 256))] == [0.5, 2.0]
    assert [of_run(run).width for run in shapes(CONFIG, "mup", "width", (64, 256))] == [1.0, 4.0]
    assert [of_run(run).depth for run in shapes(CONFIG, "completep", "depth", (2, 6))] == [1.0, 3.0]


def rows(sizes: dict[tuple[int, int], float | None]) -> list[dict[str, object]]:
    at = {"axis": "width", "depth": 2, "step": 4, "layer": "residual"}
    return [at | {"width": width, "seed": seed, "size": size} for (width, seed), size in sizes.items()]


def test_the_slope_is_that_of_a_power_and_its_error_that_over_seeds() -> None:
    power = rows({(w, s): (1 + s) * w ** (0.15 + 0.2 * s) for w in (64, 128, 256) for s in (0, 1)})
    (one,) = slopes(power)
    assert (one.slope, one.error) == (pytest.approx(0.25), pytest.approx(0.1))
    assert not one.flat and slopes(power, bar=0.26)[0].flat


@pytest.mark.parametrize(("size", "why"), [(None, "not finite at width 128"), (0.0, "zero")])
def test_sizes_that_have_no_slope_fail_and_say_why(size: float | None, why: str) -> None:
    (one,) = slopes(rows({(64, 0): 1.0, (128, 0): size}))
    assert isinstance(one, Slope) and one.slope is None and not one.flat and why in one.why


SMALL = ["--widths", "32,64", "--depths", "1,2", "--seeds", "1", "--steps", "2"]
BAD = {
    "no such parametrisation": (["--parametrization", "ntk"], "--parametrization is 'ntk'"),
    "axis": (["--axis", "time"], "--axis is 'time'"),
    "widths": (["--widths", "64,wide"], "--widths is '64,wide'"),
    "one width": (["--widths", "64"], "give at least two"),
    "width without heads": (["--widths", "64,100"], "leave neither whole heads"),
    "seeds": (["--seeds", "0"], "--seeds is 0"),
    "field": (["--set", "optimizer.name=sgd"], "optimizer.name is 'sgd'"),
}


@pytest.mark.parametrize("case", BAD)
def test_misuse_is_one_sentence(case: str) -> None:
    arguments, words = BAD[case]
    result = CliRunner().invoke(app, ["coordinate-check", *SMALL, *arguments])
    assert isinstance(result.exception, UserError) and words in str(result.exception)


def test_the_command_takes_a_config_writes_a_figure_and_says_pass_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    model = dataclasses.replace(CONFIG.model, n_layers=1, d_model=32, n_heads=2, n_kv_heads=2, d_ff=88)
    path.write_text(dump_run_config(dataclasses.replace(CONFIG, model=model, parametrisation="mup")))
    command = ["coordinate-check", str(path), *SMALL, "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, command)
    content = json.loads(result.stdout)
    assert content["parametrization"] == "mup" and content["bar"] == BAR
    assert result.exit_code == (0 if content["passed"] else 1)
    assert content["passed"] == all(slope["flat"] for slope in content["slopes"])
    assert {row["width"] for row in content["sizes"]} == {32, 64}
    assert all(Path(file).stat().st_size for file in content["files"])
