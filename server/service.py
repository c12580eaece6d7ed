"""What the routes share: the parts of one running server, and how a route reaches them."""

from dataclasses import dataclass

from fastapi import Request

from server.capabilities import Capabilities
from server.jobs import Jobs
from server.metrics import Metrics
from server.settings import Settings
from server.worker import Worker


@dataclass(frozen=True)
class Service:
    """The parts of one server."""

    settings: Settings
    capabilities: Capabilities
    worker: Worker
    metrics: Metrics
    jobs: Jobs | None = None  # None: no state folder


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
