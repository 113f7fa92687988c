"""Confirmation tokens: bound, short-lived, not to be made up."""

from __future__ import annotations

import pytest

from airflow_checkpoint_etl.confirmation import LIFETIME, Confirmer
from airflow_checkpoint_etl.errors import ConfirmationError

BOUND = {"pipeline": "orders", "part": "default", "incarnation": "a1", "to": "i8:500"}
CONFIRMER = Confirmer(b"k" * 32)


def test_a_token_gives_back_what_it_is_bound_to():
    token = CONFIRMER.issue("rewind", BOUND, now=1000.0)
    assert CONFIRMER.accept(token, "rewind", now=1000.0 + LIFETIME) == BOUND


def test_a_token_runs_out():
    token = CONFIRMER.issue("rewind", BOUND, now=1000.0)
    with pytest.raises(ConfirmationError, match="ran out 60 s ago; plan again"):
        CONFIRMER.accept(token, "rewind", now=1060.0 + LIFETIME)


def test_a_token_is_for_one_action():
    token = CONFIRMER.issue("release", BOUND, now=0.0)
    with pytest.raises(ConfirmationError, match="confirms a release, not a rewind"):
        CONFIRMER.accept(token, "rewind", now=0.0)


def test_a_token_of_another_secret_is_refused():
    token = Confirmer(b"x" * 32).issue("rewind", BOUND, now=0.0)
    with pytest.raises(ConfirmationError, match="no confirmation token of this server"):
        CONFIRMER.accept(token, "rewind", now=0.0)


def test_a_token_with_another_point_is_refused():
    _, signature = CONFIRMER.issue("rewind", BOUND, now=0.0).split(".")
    other, _ = CONFIRMER.issue("rewind", BOUND | {"to": "i8:100"}, now=0.0).split(".")
    with pytest.raises(ConfirmationError, match="no confirmation token of this server"):
        CONFIRMER.accept(f"{other}.{signature}", "rewind", now=0.0)


@pytest.mark.parametrize("token", ["", ".", "a", "a.b", "a.b.c", "ä.ö", "e30.e30", " . "])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(ConfirmationError, match="no confirmation token of this server"):
        CONFIRMER.accept(token, "rewind", now=0.0)
