"""The command line as a whole: help, examples, and how errors look. What commands do is tested elsewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from scaling.cli import main as cli
from scaling.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
GROUP: Any = typer.main.get_command(cli.app)


def _commands(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command that does something, by its words."""
    found = {}
    for name, command in group.commands.items():
        found |= (
            _commands(command, (*path, name)) if hasattr(command, "commands") else {(*path, name): command}
        )
    return found


COMMANDS = _commands(GROUP)


def _scaling(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaling.cli.main", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def _help(words: tuple[str, ...]) -> str:
    result = CliRunner().invoke(cli.app, [*words, "--help"])
    assert result.exit_code == 0
    return result.output


def _examples(words: tuple[str, ...]) -> list[list[str]]:
    """The `scaling ...` command lines after `Example:`, each as its words."""
    text = COMMANDS[words].help.split("Example:", 1)[1]
    joined = re.sub(r"\s+", " ", text)
    return [
        shlex.split(part)
        for part in re.split(r"\s*(?:&&)\s*|\s(?=scaling )", joined)
        if part.startswith("scaling ")
    ]


def test_the_chain_is_there() -> None:
    chain = (
        "quickstart",
        "plan",
        "launch",
        "status",
        "train",
        "fit",
        "predict",
        "forecast",
        "verify",
        "report",
    )
    assert {(name,) for name in chain} | {("data", "prepare")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_names_every_option_and_gives_an_example(words: tuple[str, ...]) -> None:
    text = _help(words)
    assert "Example" in text
    assert "--json" in text
    for parameter in COMMANDS[words].params:
        assert parameter.name == "help" or parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_are_accepted(words: tuple[str, ...]) -> None:
    examples = _examples(words)
    assert any(tuple(e[1 : 1 + len(words)]) == words for e in examples)
    for example in examples:
        name = next(n for n in COMMANDS if tuple(example[1 : 1 + len(n)]) == n)
        COMMANDS[name].make_context(" ".join(name), example[1 + len(name) :])  # parsed, not run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_bad_input(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*words, "--no-such-option"])
    assert result.exit_code == 2
    assert "--no-such-option" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "no_such_study"),
        ("launch", "no_such_study"),
        ("status", "no_such_study"),
        ("fit", "no_such_file.csv"),
        ("predict", "no_such_fit", "--flops", "1e12"),
        ("forecast", "no_such_fit", "--flops", "1e12"),
        ("verify", "no_such_target"),
        ("report", "no_such_sweep"),
        ("train", "no_such_config.json"),
        ("data", "prepare", "no_such_folder", "--out", "prepared"),
        ("quickstart", "--target", "1e9"),
        ("quickstart", "--data", "no_such_folder"),
        ("quickstart", "--wandb", "perhaps"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence_and_exit_code_2(words: tuple[str, ...], tmp_path: Path) -> None:
    done = _scaling(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].endswith(".")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []  # nothing half written


def test_a_user_error_is_told_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise UserError("lr is -1; give a positive learning rate.")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: lr is -1; give a positive learning rate.\n")


def test_without_arguments_it_shows_help(tmp_path: Path) -> None:
    assert "Commands:" in _scaling("--help", cwd=tmp_path).stdout


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = "n,lr,loss\n" + "".join(
        f"1e6,{lr},{loss}\n" for lr, loss in ((1e-3, 3.1), (4e-3, 3), (1.6e-2, 3.2))
    )
    (tmp_path / "t.csv").write_text(table)
    done = _scaling("tune", "t.csv", "--out", "file", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: file cannot be read or written: File exists." in done.stderr
