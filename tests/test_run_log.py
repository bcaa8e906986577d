import logging

import pytest
from prefect import flow, task

from n1n_prefect.run_log import get_logger


class TestGetLogger:
    def test_plain_outside_of_a_run(self):
        assert get_logger() is logging.getLogger("n1n_prefect")

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    def test_of_the_run_inside_one(self):
        @task
        def name_in_task() -> str:
            return get_logger().name

        @flow
        def names() -> list[str]:
            return [get_logger().name, name_in_task()]

        assert names() == ["prefect.flow_runs", "prefect.task_runs"]
