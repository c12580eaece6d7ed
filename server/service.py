"""What the routes share: the parts of one running server, and how a route reaches them."""

from dataclasses import dataclass, field
from functools import partial

from fastapi import Request

from server.capabilities import Capabilities
from server.device import Device
from server.errors import Problem
from server.jobs import Jobs
from server.keys import Keys
from server.metrics import Metrics
from server.reading import pipeline_arguments
from server.schemas import GenerationRequest
from server.settings import Settings
from server.webhooks import Webhooks
from server.wordlist import Words
from server.worker import Worker


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
        for param, texts in (("prompt", [asked.prompt]), ("entities", ids)):
            if any(map(self.words.current.refuses, texts)):
                self.metrics.filtered.labels(by="words").inc()
                raise Problem("content_filtered", param=param)

    def charge(self, request: Request, asked: GenerationRequest) -> None:
        """Take a request's predicted work from its key's allowance; `Problem` rate_limited."""
        if self.keys is not None:
            seconds = self.worker.predict(pipeline_arguments(asked, 0))
            self.keys.spend(owner_of(request), seconds)


def owner_of(request: Request) -> str:
    """The name of the key that a request came with; empty where none is asked for."""
    return str(getattr(request.state, "owner", ""))


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
