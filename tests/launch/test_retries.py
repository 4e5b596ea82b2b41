"""Retries are bounded in time without progress; a device on which several runs crash is left out."""

from __future__ import annotations

from launch.retries import FAILURES, Health, Retries


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_and_end_with_the_time_without_progress() -> None:
    clock = Clock()
    retries, waits = Retries(minutes=1, clock=clock), []
    while (wait := retries.crashed("a", 100)) is not None:
        waits.append(wait)
        assert not retries.ready("a") and retries.ready("b")
        clock.now += wait
        assert retries.ready("a")
    assert waits == [1, 2, 4, 8, 16]  # 31 s; 32 more would be past the minute
    assert retries.trouble("a") == "6 times in 31 s without getting past step 100"


def test_a_later_checkpoint_starts_the_count_and_the_time_anew() -> None:
    clock = Clock()
    retries = Retries(minutes=1, clock=clock)
    assert [retries.crashed("a", 0) for _ in range(4)] == [1, 2, 4, 8]
    clock.now = 1e6
    assert retries.crashed("a", 50) == 1
    assert retries.crashed("a", 50) == 2
    retries.forget("a")
    assert retries.ready("a") and retries.crashed("a", 50) == 1


def test_with_no_time_at_all_there_is_still_one_retry() -> None:
    retries = Retries(minutes=0, clock=Clock())
    assert [retries.crashed("a", 0), retries.crashed("a", 0)] == [1, None]


def test_pauses_have_a_longest() -> None:
    clock = Clock()
    retries = Retries(minutes=1e9, clock=clock)
    assert [retries.crashed("a", 0) for _ in range(9)][-3:] == [60, 60, 60]


def test_a_device_on_which_several_runs_crash_is_left_out_and_named() -> None:
    health = Health(["gpu 0", "gpu 0", "gpu 1"])
    assert health.crashed(0, "a") is None
    assert not health.suits(1, "a") and health.suits(2, "a") and health.suits(1, "b")
    assert health.crashed(1, "b") is None
    assert health.crashed(0, "c") == f"gpu 0 is left out: {FAILURES} crashes in a row on it, of 3 runs"
    assert health.left_out == ["gpu 0"]
    assert [health.usable(slot) for slot in range(3)] == [False, False, True]


def test_a_run_that_crashes_everywhere_condemns_no_device() -> None:
    health = Health(["gpu 0", "gpu 1"])
    for _ in range(5):
        assert health.crashed(0, "bad") is None and health.crashed(1, "bad") is None
    assert health.usable(0) and health.usable(1) and health.suits(0, "bad")


def test_work_that_goes_well_clears_a_device_and_the_last_one_stays() -> None:
    health = Health(["gpu 0", "gpu 1"])
    for run in "ab":
        health.crashed(0, run)
    health.worked(0)
    assert health.crashed(0, "c") is None
    for run in "abc":
        health.crashed(1, run)
    assert health.left_out == ["gpu 1"]
    for run in "defg":
        assert health.crashed(0, run) is None
    assert health.usable(0)
