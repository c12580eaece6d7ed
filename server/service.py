"""What the routes share: the parts of one running server, and how a route reaches them."""

from dataclasses import dataclass

from fastapi import Request

from server.capabilities import Capabilities
from server.device import Device
from server.jobs import Jobs
from server.keys import Keys
from server.metrics import Metrics
from server.reading import pipeline_arguments
from server.schemas import GenerationRequest
from server.settings import Settings
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

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, with the graph that is in use now."""
        return self.device.capabilities

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
