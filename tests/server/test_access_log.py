"""What the log says of a request: who, what, how it ended; never what was asked for."""

import logging

import pytest
from fastapi.testclient import TestClient

LOGGER = "server.middleware"


def test_an_answer_is_logged_with_its_id_and_time(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        answer = client.get("/v1/capabilities")
    (line,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert '"GET /v1/capabilities" 200' in line
    assert line.endswith(answer.headers["X-Request-Id"])


def test_prompts_in_a_query_are_not_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        client.get("/v1/entities", params={"q": "secret tiger"})
    assert not any("tiger" in record.getMessage() for record in caplog.records)


def test_a_path_cannot_forge_a_line_of_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        client.get("/%0AINFO: all is well")
    assert not any("\n" in record.getMessage() for record in caplog.records)
