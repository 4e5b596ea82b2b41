"""`scaling train` as its user meets it: signals, exit codes, and errors of one sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tiny import CONFIG, tiny

from scaling.cli.main import main
from scaling.config import RunConfig, dump_run_config, to_dict
from scaling.runs import RunFolder

SCALING = [sys.executable, "-m", "scaling.cli.main", "train"]


@dataclasses.dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one sentence of a refusal: nothing on stdout, one error line, no traceback."""
        lines = self.err.splitlines()
        assert self.out == "" and "Traceback" not in self.err
        assert [line for line in lines if not line.startswith("note: ")] == [lines[-1]], self.err
        assert lines[-1].startswith("error: ")
        return lines[-1]


@pytest.fixture
def scaling_train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command inside this process: starting Python and JAX for each would take seconds."""

    def call(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["scaling", "train", *map(str, arguments)])
        capsys.readouterr()
        with mock.patch.dict(os.environ), pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def write(folder: Path, config: RunConfig = CONFIG) -> Path:
    path = folder / "run.json"
    path.write_text(dump_run_config(config))
    return path


def rows(run: RunFolder) -> list[dict[str, Any]]:
    lines = run.metrics_path.read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_run_in_words_and_as_json(scaling_train: Callable[..., Said], tmp_path: Path, out: Path) -> None:
    config = write(tmp_path)
    said = scaling_train(config, "--out", out)
    run = RunFolder(out / CONFIG.run_id)
    summary = run.summary()
    assert said.code == 0 and run.status() == "done"
    assert said.out.count("\n") == 1
    for word in (CONFIG.run_id, f"{summary['loss']:.4f}", "nats/token", "5,120 tokens", str(run.path)):
        assert word in said.out
    again = scaling_train(config, "--out", out, "--json")
    assert again.code == 0
    assert json.loads(again.out) == {"run_id": CONFIG.run_id, "folder": str(run.path), **summary}


def test_set_changes_fields_by_their_dotted_names(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path
) -> None:
    changes = ("--set", "steps=3", "--set", "schedule.name=cosine", "--set", "optimizer.lr=3e-3")
    said = scaling_train(write(tmp_path), "--out", out, "--json", *changes)
    expected = tiny(steps=3, schedule__name="cosine", optimizer__lr=3e-3)
    assert json.loads(said.out)["run_id"] == expected.run_id
    assert RunFolder(out / expected.run_id).config() == expected


def test_a_diverged_run_is_an_outcome_and_no_error(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path
) -> None:
    said = scaling_train(write(tmp_path, tiny(optimizer__lr=1e30)), "--out", out)
    assert said.code == 0
    assert "diverged at step" in said.out
    again = scaling_train(write(tmp_path, tiny(optimizer__lr=1e30)), "--out", out, "--json")
    assert again.code == 0
    assert json.loads(again.out)["status"] == "diverged"


def without(path: str) -> dict[str, Any]:
    values = to_dict(CONFIG)
    parent, name = path.split(".")
    del values[parent][name]
    return values


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "an unknown field": (json.dumps({**to_dict(CONFIG), "learning_rate": 1}).encode(), "'learning_rate'"),
    "a missing field": (json.dumps(without("model.d_ff")).encode(), "'model.d_ff'"),
    "no JSON": (b"steps: 3", "is not JSON"),
    "an empty file": (b"", "is not JSON"),
    "not UTF-8": (b'{"steps": "\xff"}', "cannot be read"),
    "a list": (b"[1, 2]", "RunConfig"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_config_file_is_one_sentence(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path, case: str
) -> None:
    content, named = BAD_FILES[case]
    (tmp_path / "run.json").write_bytes(content)
    said = scaling_train(tmp_path / "run.json", "--out", out)
    assert said.code == 2
    assert named in said.error()
    assert not out.exists()


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "a config that is not there": (["--set", "steps=3"], "nowhere.json"),
    "set without a value": (["--set", "steps"], "'steps' has no '='"),
    "set of an unknown field": (["--set", "optimiser.lr=1"], "'optimiser.lr'"),
    "set to text": (["--set", "steps=many"], "steps is 'many'"),
    "set to NaN": (["--set", "optimizer.lr=NaN"], "optimizer.lr is nan"),
    "set to a number nobody can read": (["--set", f"steps={'9' * 5000}"], "steps is"),
    "set too deep": (["--set", f"steps={'[' * 50_000}"], "steps is"),
    "an unknown device": (["--device", "abacus"], "placement.device is 'abacus'"),
    "a device that is not here": (["--device", "tpu"], "placement.device is 'tpu'"),
    "no microbatches": (["--microbatches", "0"], "placement.microbatches is 0"),
    "negative threads": (["--threads", "-1"], "placement.threads is -1"),
    "wandb somewhere": (["--wandb", "maybe"], "placement.wandb is 'maybe'"),
    "profile of no steps": (["--profile", "traces", "--profile-steps", "7:3"], "--profile-steps is 7:3"),
    "profile in words": (["--profile", "traces", "--profile-steps", "all"], "--profile-steps is 'all'"),
    "profile into a file": (["--profile", "/dev/null/traces"], "--profile '/dev/null/traces'"),
    "data that is not there": (["--data", "nowhere"], "nowhere"),
    "another text": (["--set", "data.fingerprint=0123"], "fingerprint 0123"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_sentence(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path, case: str
) -> None:
    options, named = BAD_OPTIONS[case]
    config = tmp_path / "nowhere.json" if named == "nowhere.json" else write(tmp_path)
    said = scaling_train(config, "--out", out, *options)
    assert said.code == 2
    assert named in said.error()
    assert not out.exists()


def test_a_run_held_by_another_process_is_one_sentence(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path
) -> None:
    with RunFolder(out / CONFIG.run_id).claim():
        said = scaling_train(write(tmp_path), "--out", out)
    assert said.code == 1
    assert f"run {CONFIG.run_id} is held by another process" in said.error()


def test_a_place_that_cannot_be_written_is_one_sentence(
    scaling_train: Callable[..., Said], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    said = scaling_train(write(tmp_path), "--out", tmp_path / "file")
    assert said.code == 1
    assert "Not a directory" in said.error()


def test_wandb_out_of_reach_is_a_note_and_the_run_goes_on(tmp_path: Path, out: Path) -> None:
    """In a process of its own, to its very end: wandb has threads and a service to leave behind."""
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    del environment["WANDB_MODE"]
    command = [*SCALING, str(write(tmp_path)), "--out", str(out), "--wandb", "online"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "nats/token" in ended.stdout
    notes = ended.stderr.splitlines()  # the folder, the tracker, where the time went
    assert [line[:5] for line in notes] == ["note:"] * 3, ended.stderr
    assert sum("wandb cannot be reached" in line for line in notes) == 1
    assert "wandb cannot be reached" in ended.stderr
    assert RunFolder(out / CONFIG.run_id).status() == "done"


@pytest.mark.parametrize("limit", [4000, 10_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path, limit: int
) -> None:
    """At 4,000 bytes the log does not fit, at 10,000 the checkpoint does not."""
    config, run = write(tmp_path), RunFolder(out / CONFIG.run_id)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        said = scaling_train(config, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.code == 1
    assert "File too large" in said.error() and "start" in said.error()
    assert run.status() in ("stopped", "failed")  # both are resumable
    assert scaling_train(config, "--out", out).code == 0
    assert run.status() == "done"
    assert [row["step"] for row in rows(run)] == list(range(1, 41))


LONG = tiny(steps=600)


def start(config: Path, out: Path) -> subprocess.Popen[str]:
    command = [*SCALING, str(config), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_sigterm_and_ctrl_c_save_and_ask_to_be_started_again(
    scaling_train: Callable[..., Said], tmp_path: Path, out: Path
) -> None:
    config, run = write(tmp_path, LONG), RunFolder(out / LONG.run_id)
    reached = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        before = run.metrics_path.stat().st_size if run.metrics_path.exists() else 0
        process = start(config, out)
        # The log grows in blocks of some sixty rows, so the signal falls amid the run.
        wait_for(lambda size=before: run.metrics_path.exists() and run.metrics_path.stat().st_size > size)
        process.send_signal(number)
        said, notes = process.communicate(timeout=60)
        assert process.returncode == 42, notes
        assert said == "" and "Traceback" not in notes
        assert "run the same command again" in notes
        assert run.status() == "stopped"
        steps = [row["step"] for row in rows(run)]
        assert steps == list(range(1, len(steps) + 1)) and reached < len(steps) < 600
        reached = len(steps)
    assert scaling_train(config, "--out", out).code == 0
    assert scaling_train(config, "--out", tmp_path / "undisturbed").code == 0
    undisturbed = RunFolder(tmp_path / "undisturbed" / LONG.run_id)
    assert rows(run) == rows(undisturbed)
    for name in ("loss", "loss_se", "train_loss"):
        assert run.summary()[name] == undisturbed.summary()[name]
