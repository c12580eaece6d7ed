"""What one kind of problem is; `server.messages` has all of them."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its HTTP status, OpenAI's error type, and its words.

    The details are `str.format` templates over the values a `Problem` carries.
    """

    status: int
    error_type: str
    title: dict[Language, str]
    detail: dict[Language, str]


def make_kind(status: int, english: tuple[str, str], chinese: tuple[str, str]) -> Kind:
    """A kind from its status and, in each language, its title and its detail."""
    error_type = "server_error" if status >= 500 else "invalid_request_error"
    return Kind(
        status,
        error_type,
        {"en": english[0], "zh": chinese[0]},
        {"en": english[1], "zh": chinese[1]},
    )
