"""What an operator may set, by environment (`RAPID_DIFFUSION_HOST=…`) or by keyword."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rapid_diffusion import MOST_ROWS

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """The settings of one server; every field has the environment name `RAPID_DIFFUSION_<FIELD>`.

    Raises pydantic's `ValidationError` where a value is outside its range, and where the server
    would be reachable by others without the operator having said so.
    """

    model_config = SettingsConfigDict(
        env_prefix="RAPID_DIFFUSION_", frozen=True, extra="forbid", protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port; 0 takes a free one")
    model: str = Field("emoji-zh-4", description="name of a shipped model, or a model folder")
    graph: Path | None = Field(
        None, description="knowledge graph to link to; None: the model's own"
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, description="adapter folders of that model, by name"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1 …; None chooses")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None leaves torch's")
    rows: Literal["fit"] | Annotated[int, Field(ge=2, le=MOST_ROWS)] | None = Field(
        None, description="rows of every call of the UNet, whoever draws; None: 2 on a CPU, else 16"
    )
    artifacts: str | None = Field(
        None, description="folder that `rapid-diffusion compile` wrote, or auto; executed: trust it"
    )
    queue_size: int = Field(16, ge=1, le=10_000, description="requests that may wait")
    queue_seconds: float = Field(120.0, gt=0, description="seconds of work that may wait")
    body_limit: int = Field(65_536, ge=1024, le=65_536, description="bytes of a request's body")
    drain_seconds: int = Field(30, ge=0, le=3600, description="time to finish after SIGTERM")
    worker_process: bool = Field(True, description="draw in a process of its own")
    silence_seconds: float = Field(
        15.0, ge=1.0, le=3600, description="a worker without a sign of life is started again"
    )
    hang_seconds: float = Field(
        120.0, ge=0.5, le=86_400, description="longest step; a worker that takes more is hanging"
    )
    state: Path | None = Field(None, description="folder of jobs and results; None: no jobs")
    job_limit: int = Field(1000, ge=1, le=100_000, description="jobs that may wait")
    job_seconds: float = Field(86_400.0, gt=0, description="seconds of jobs that may wait")
    retention_hours: float = Field(24.0, gt=0, le=8760, description="results are kept this long")
    state_quota_bytes: int = Field(2**31, ge=2**20, description="bytes of results in the folder")
    webhook_hosts: list[str] = Field(
        default_factory=list, description="hosts that webhooks may reach by http, private ones too"
    )
    webhook_attempts: int = Field(12, ge=1, le=100, description="then a webhook is abandoned")
    webhook_retry_seconds: float = Field(
        5.0, gt=0, le=3600, description="before the second attempt; three times as long each time"
    )
    keys_file: Path | None = Field(None, description="JSON file of hashed API keys")
    allow_unauthenticated: bool = Field(False, description="serve others without keys")
    content_producer: str = Field("", description="the operator's code, for the AI-content label")
    explicit_label: bool = Field(True, description="pictures show the words AI生成 in a corner")
    embed_parameters: bool = Field(
        True, description="files say how they were drawn, prompt and all"
    )
    word_list: Path | None = Field(None, description="file of terms that no prompt may hold")
    picture_check: bool = Field(False, description="look at pictures before they are delivered")
    picture_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="score from which a picture is refused"
    )
    allowed_hosts: list[str] = Field(
        default_factory=list, description="Host names answered besides the loopback's own"
    )

    admin_port: int | None = Field(
        None, ge=0, le=65535, description="second port, for operators; None: none"
    )
    admin_host: str = Field("127.0.0.1", description="address of that port")
    admin_token_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="hash of the token it asks for"
    )

    @field_validator("content_producer")
    @classmethod
    def _producer_is_plain(cls, value: str) -> str:
        if not re.fullmatch(r"[!#-\[\]-~]*", value):
            raise ValueError(
                f"content_producer is {value!r}; it may hold printable ASCII without blanks, quotes"
                " and backslashes (the label allows no others)"
            )
        return value

    @model_validator(mode="after")
    def _others_are_let_in_on_purpose(self) -> Self:
        if self.is_loopback:
            return self
        if self.keys_file is None and not self.allow_unauthenticated:
            raise ValueError(
                f"host is {self.host!r}: others could reach this server without a key. Name a file"
                " of keys in RAPID_DIFFUSION_KEYS_FILE, bind to 127.0.0.1, or put your own"
                " authentication in front of it and set RAPID_DIFFUSION_ALLOW_UNAUTHENTICATED=true"
            )
        if not self.content_producer:
            raise ValueError(
                f"host is {self.host!r}: pictures given to others are labelled as made by AI, and"
                " the label names their producer. Set RAPID_DIFFUSION_CONTENT_PRODUCER to your code"
            )
        return self

    @model_validator(mode="after")
    def _operators_show_a_token(self) -> Self:
        if (
            self.admin_port is not None
            and self.admin_token_sha256 is None
            and not _is_loopback(self.admin_host)
        ):
            raise ValueError(
                f"admin_host is {self.admin_host!r}: others could reach the operators' port. Set"
                " RAPID_DIFFUSION_ADMIN_TOKEN_SHA256 (`python -m server.keys admin` makes a token"
                " and its sha256), or leave the port on 127.0.0.1"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return _is_loopback(self.host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
