"""Nothing loads, a sensor waits for it, and Airflow's deadline says so."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]


def test_a_deadline_tells_that_the_data_is_late_while_the_sensor_waits(stack):
    api, told = stack.api, stack.flags / "late.waits_in_vain"
    api.wait_parsed("waits_in_vain")
    api.unpause("waits_in_vain")
    run_id = api.trigger("waits_in_vain")
    api.wait("the deadline to be missed", lambda: told.exists() or None, 120)

    def waits():
        return api.task("waits_in_vain", run_id, "loaded").state == "deferred" or None

    api.wait("the sensor to wait without a slot", waits, 120)
    api.mark_run("waits_in_vain", run_id, "failed")
