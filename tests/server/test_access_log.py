"""What the log says of a request: who, what, how it ended; never what was asked for."""

import logging
import re
import time

import httpx
import pytest

LOGGER = "server.middleware"


def logged(client: httpx.Client, caplog: pytest.LogCaptureFixture, url: str) -> str:
    """The line that a request leaves in the log: the one that ends in the id it is answered with.

    The server writes it when the whole answer is out; the client may be here before.
    """
    with caplog.at_level(logging.INFO, LOGGER):
        request_id = client.get(url).headers["X-Request-Id"]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for record in caplog.records:
                if record.name == LOGGER and record.getMessage().endswith(request_id):
                    return record.getMessage()
            time.sleep(0.01)
    pytest.fail(f"{url} left no line in the log that ends in {request_id}")


def test_an_answer_is_logged_with_its_id_and_time(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    line = logged(client, caplog, "/v1/capabilities")
    assert re.fullmatch(r'\S+:\d+ "GET /v1/capabilities" 200 \d+ ms \S+', line)


def test_prompts_in_a_query_are_not_logged(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    line = logged(client, caplog, "/v1/entities?q=secret+tiger")
    assert "tiger" not in line


def test_a_path_cannot_forge_a_line_of_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    line = logged(client, caplog, "/%0AINFO: all is well")
    assert "\n" not in line
