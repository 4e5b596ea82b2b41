"""The run folder: what a reader makes of logs that were cut off, and who holds a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import CONFIG, CPU

from scaling.errors import UserError
from scaling.runs import MetricsLog, RunBusy, RunFolder, run_folders


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / CONFIG.run_id)
    folder.create(CONFIG, CPU)
    return folder


def row(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "tokens": 128 * step, "loss": loss}


def write(run: RunFolder, *lines: dict[str, Any] | str) -> None:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    run.metrics_path.write_text(text)


def test_a_log_reads_as_it_was_written(run: RunFolder) -> None:
    log = MetricsLog(run)
    for step in range(1, 4):
        log.append(row(step))
    log.flush()
    assert run.metrics() == ([row(1), row(2), row(3)], [])
    log.close()


@pytest.mark.parametrize("length", range(1, len(json.dumps(row(3)))))
def test_a_last_line_cut_off_anywhere_is_dropped_with_a_note(run: RunFolder, length: int) -> None:
    write(run, row(1), row(2), json.dumps(row(3))[:length])
    rows, notes = run.metrics()
    assert rows == [row(1), row(2)]
    assert len(notes) == 1
    assert "line 3" in notes[0] and "cut off mid-line" in notes[0] and str(run.metrics_path) in notes[0]


def test_the_last_row_of_a_doubled_step_wins(run: RunFolder) -> None:
    write(run, row(1), row(2), row(3, loss=9.0), row(2, loss=5.0), row(3, loss=4.0), row(4))
    rows, notes = run.metrics()
    assert rows == [row(1), row(2, loss=5.0), row(3, loss=4.0), row(4)]
    assert notes == []


JUNK = [
    "\x00\x00\x00\n",
    "null\n",
    "[1]\n",
    "{}\n",
    '{"step": null}\n',
    '{"step": NaN}\n',
    '{"step": 1e999}\n',
]


@pytest.mark.parametrize("junk", JUNK)
def test_an_unreadable_line_in_the_middle_is_dropped_with_a_note(run: RunFolder, junk: str) -> None:
    write(run, row(1), junk, row(2))
    rows, notes = run.metrics()
    assert rows == [row(1), row(2)]
    assert len(notes) == 1 and "line 2 is unreadable" in notes[0]


def test_bytes_that_are_no_text_do_not_stop_a_reader(run: RunFolder) -> None:
    run.metrics_path.write_bytes(json.dumps(row(1)).encode() + b"\n\xff\xfe\xff\n")
    assert run.metrics()[0] == [row(1)]


def test_cutting_leaves_every_step_up_to_the_checkpoint_once(run: RunFolder) -> None:
    write(run, row(1), row(2), row(3), row(2, loss=5.0), row(4), '{"step": 5, "lo')
    run.cut_metrics(3)
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert lines == [row(1), row(2, loss=5.0), row(3)]
    log = MetricsLog(run)
    log.append(row(4))
    log.close()
    assert run.metrics() == ([row(1), row(2, loss=5.0), row(3), row(4)], [])


def test_cutting_a_log_that_is_not_there_makes_none(run: RunFolder) -> None:
    run.cut_metrics(3)
    assert not run.metrics_path.exists()
    assert run.metrics() == ([], [])


def test_status_from_the_first_row_to_the_end(run: RunFolder) -> None:
    assert run.status() == "pending"
    with run.claim():
        assert run.status() == "running"
        write(run, row(1))
        assert run.status() == "running"
    assert run.status() == "stopped"
    run.fail("OSError: no space")
    assert run.status() == "failed"
    with run.claim():
        assert run.status() == "running"
        run.create(CONFIG, CPU)  # a new attempt
    assert run.status() == "stopped"  # and not failed: that was the attempt before
    run.finish("done", {"loss": 1.0})
    assert run.status() == "done"
    assert run.summary() == {"status": "done", "loss": 1.0}


def test_a_diverged_run_is_ended_too(run: RunFolder) -> None:
    run.finish("diverged", {"diverged_step": 3})
    assert run.status() == "diverged" and run.finished()


def test_done_is_written_only_beside_a_whole_summary(run: RunFolder) -> None:
    with pytest.raises(ValueError):
        run.finish("done", {"loss": float("nan")})
    assert not (run.path / "DONE").exists()
    assert not (run.path / "summary.json").exists()
    assert run.status() == "pending"


@pytest.mark.parametrize("text", ["", '{"status": "do', "null", "[]", '"done"', "\x00"])
def test_a_damaged_summary_crashes_no_reader_and_ends_no_run(run: RunFolder, text: str) -> None:
    write(run, row(1))
    run.finish("done", {"loss": 1.0})
    (run.path / "summary.json").write_text(text)
    assert run.summary() == {}
    assert not run.finished()
    assert run.status() == "stopped"  # resumable: the checkpoint still has the result


def test_a_damaged_config_is_a_user_error(run: RunFolder) -> None:
    (run.path / "config.json").write_bytes(b'{"steps": \xff')
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        run.config()
    with pytest.raises(UserError, match=r"no config\.json"):
        RunFolder(run.path / "elsewhere").config()


def test_the_config_reads_back(run: RunFolder) -> None:
    assert run.config() == CONFIG
    assert [found.path for found in run_folders(run.path.parent)] == [run.path]


HOLD = """
import sys, time
from pathlib import Path
from scaling.runs import RunFolder
with RunFolder(Path(sys.argv[1])).claim():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_claim_excludes_other_processes_until_the_holder_is_killed(run: RunFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert run.status() == "running"
        with pytest.raises(RunBusy, match=CONFIG.run_id), run.claim():
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert run.status() == "pending"
    with run.claim():
        assert run.is_live()


def test_readers_do_not_take_each_other_for_the_trainer(run: RunFolder) -> None:
    """Two `status` commands at once: neither may see the other's look at the lock as a running run."""
    import fcntl

    with run.claim():
        pass
    with (run.path / ".lock").open() as another_reader:
        fcntl.flock(another_reader, fcntl.LOCK_SH)
        assert not run.is_live()
