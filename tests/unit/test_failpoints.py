"""Failpoints act where and when they are told to, once, and cost nothing otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from airflow_checkpoint_etl import failpoints
from airflow_checkpoint_etl.failpoints import ENVIRONMENT, FailpointError, failpoint


@pytest.fixture(autouse=True)
def _no_passes_yet():
    failpoints.reset()
    yield
    failpoints.reset()


@pytest.fixture
def configure(monkeypatch):
    return lambda setting: monkeypatch.setenv(ENVIRONMENT, setting)


def test_without_a_setting_nothing_happens(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    failpoint("load.before_load")


def test_only_the_named_point_acts(configure):
    configure("load.before_load=raise")
    failpoint("load.before")
    failpoint("load.before_load_more")
    with pytest.raises(FailpointError, match=r"^failpoint load\.before_load$"):
        failpoint("load.before_load")


def test_a_point_acts_once(configure):
    configure("load=raise")
    with pytest.raises(FailpointError):
        failpoint("load")
    failpoint("load")


def test_a_point_acts_again_after_a_reset(configure):
    configure("load=raise")
    for _ in range(2):
        with pytest.raises(FailpointError):
            failpoint("load")
        failpoints.reset()


def test_a_point_can_wait_for_a_later_pass(configure):
    configure("load@3=raise")
    failpoint("load")
    failpoint("load")
    with pytest.raises(FailpointError):
        failpoint("load")
    failpoint("load")


def test_several_points_are_set_at_once(configure):
    configure(" extract=sleep:0 ; load@2=raise;load@1=raise; ")
    failpoint("extract")
    for _ in range(2):
        with pytest.raises(FailpointError):
            failpoint("load")
    failpoint("load")


def test_passes_of_other_points_do_not_count(configure):
    configure("load@2=raise")
    failpoint("extract")
    failpoint("load")
    failpoint("extract")
    with pytest.raises(FailpointError):
        failpoint("load")


def test_sleeping_takes_the_seconds_it_is_given(configure, monkeypatch):
    slept = []
    monkeypatch.setattr(failpoints.time, "sleep", slept.append)
    configure("load=sleep:2.5")
    failpoint("load")
    assert slept == [2.5]


def test_stopping_stops_this_process(configure, monkeypatch):
    sent = []
    monkeypatch.setattr(failpoints.os, "kill", lambda pid, number: sent.append((pid, number)))
    configure("load=stop")
    failpoint("load")
    assert sent == [(os.getpid(), signal.SIGSTOP)]


@pytest.mark.parametrize("action", ["explode", "", "Kill"])
def test_an_unknown_action_is_an_error_that_names_the_known_ones(configure, action):
    configure(f"load={action}")
    with pytest.raises(
        ValueError, match=f"unknown action '{action}'; use kill, stop, sleep:S, raise"
    ):
        failpoint("load")


def test_killing_leaves_no_time_for_anything_else():
    program = (
        "import atexit; atexit.register(print, 'said goodbye')\n"
        "from airflow_checkpoint_etl.failpoints import failpoint\n"
        "failpoint('load'); print('alive', flush=True); failpoint('load'); print('still alive')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {ENVIRONMENT: "load@2=kill"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "alive\n"
