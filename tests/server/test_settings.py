"""A server others can reach is a decision of its operator."""

import pytest
from pydantic import ValidationError

from server.main import log_config
from server.settings import Settings

OPEN = {"allow_unauthenticated": True, "content_producer": "SHOP001"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_other_addresses_are_refused_without_a_word_of_consent(host: str) -> None:
    with pytest.raises(ValidationError, match="ALLOW_UNAUTHENTICATED=true"):
        Settings(host=host)
    assert not Settings(host=host, **OPEN).is_loopback


def test_serving_others_needs_the_operators_code() -> None:
    with pytest.raises(ValidationError, match="CONTENT_PRODUCER"):
        Settings(host="0.0.0.0", allow_unauthenticated=True)


@pytest.mark.parametrize("code", ["有限公司", 'a"b', "a b", "a\\b"])
def test_codes_the_label_cannot_hold_are_refused(code: str) -> None:
    with pytest.raises(ValidationError, match="content_producer"):
        Settings(content_producer=code)


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPID_DIFFUSION_QUEUE_SIZE", "3")
    monkeypatch.setenv("RAPID_DIFFUSION_ALLOWED_HOSTS", '["shop.example"]')
    assert (Settings().queue_size, Settings().allowed_hosts) == (3, ["shop.example"])


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"queue_size": 0}, {"body_limit": 1}, {"prot": 1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_logs_go_to_stderr() -> None:
    handlers = log_config()["handlers"].values()
    assert {handler["stream"] for handler in handlers} == {"ext://sys.stderr"}


@pytest.mark.parametrize(("text", "rows"), [("2", 2), ("16", 16), ("fit", "fit")])
def test_rows_are_a_number_or_fit(monkeypatch: pytest.MonkeyPatch, text: str, rows: object) -> None:
    monkeypatch.setenv("RAPID_DIFFUSION_ROWS", text)
    assert Settings().rows == rows


@pytest.mark.parametrize("rows", [0, 1, 257, 2.5, "fitt", ""])
def test_rows_that_hold_no_guided_picture_are_refused(rows: object) -> None:
    with pytest.raises(ValidationError, match="rows"):
        Settings(rows=rows)
