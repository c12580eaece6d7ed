"""What the routes share: the parts of one running server, and how a route reaches them."""

import logging
import re
from dataclasses import dataclass, field
from functools import partial

from fastapi import Request

from server.capabilities import Capabilities
from server.device import Device
from server.errors import Problem, invalid
from server.images import Addresses
from server.jobs import Jobs
from server.keys import Keys
from server.labels import check_unlabelled
from server.metrics import Metrics
from server.reading import pipeline_arguments
from server.schemas import GenerationRequest
from server.settings import Settings
from server.webhooks import Webhooks
from server.wordlist import Words
from server.worker import Worker

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """The parts of one server."""

    settings: Settings
    device: Device
    worker: Worker
    metrics: Metrics
    jobs: Jobs | None = None  # None: no state folder
    keys: Keys | None = None  # None: everybody may ask
    words: Words = field(default_factory=partial(Words, None))
    webhooks: Webhooks | None = None  # None: no state folder

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, with the graph that is in use now."""
        return self.device.capabilities

    def check_words(self, asked: GenerationRequest) -> None:
        """Raises `Problem` content_filtered where the prompt, or an entity's id, holds a term.

        The negative prompt says what is not to be drawn: it may hold anything.
        """
        ids = [entity.id for entity in asked.entities if not isinstance(entity, str)]
        for param, texts in (
            ("prompt", [asked.prompt]),
            ("style", [asked.style or ""]),
            ("entities", ids),
        ):
            if any(map(self.words.current.refuses, texts)):
                self.metrics.filtered.labels(by="words").inc()
                raise Problem("content_filtered", param=param)

    def charge(self, request: Request, asked: GenerationRequest) -> None:
        """Take a request's predicted work from its key's allowance; `Problem` rate_limited."""
        if self.keys is not None:
            seconds = self.worker.predict(pipeline_arguments(asked, 0))
            self.keys.spend(owner_of(request), seconds)

    def check_label(self, request: Request, asked: GenerationRequest) -> None:
        """Let a request go without the explicit label, and log it; `Problem` label_required."""
        owner, request_id = owner_of(request), request.state.request_id
        if check_unlabelled(asked, self.settings, self.keys, owner):
            if self.jobs is not None:
                self.jobs.label_log.note(owner, request_id)
            logger.info("request %s of %r: no explicit label", request_id, owner)

    def addresses(self, request: Request, asked: GenerationRequest) -> Addresses | None:
        """Where the pictures are kept that are asked for by address; else None.

        Raises `Problem`: invalid_parameter where this server keeps none.
        """
        if asked.response_format != "url":
            return None
        if self.jobs is None:
            raise invalid("response_format", "needs_state", "url")
        return Addresses(self.jobs.images, owner_of(request), base_of(request))


def base_of(request: Request) -> str:
    """How the client reached this server, `http://host:port`; empty where it does not say."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else ""


def owner_of(request: Request) -> str:
    """The name of the key that a request came with; empty where none is asked for."""
    return str(getattr(request.state, "owner", ""))


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
