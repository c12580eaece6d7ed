"""The operators' port: an application and a thread of its own beside the service.

Its own event loop answers while that of the service is busy, and until the process ends.
"""

import logging
import socket
import threading

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from rapid_diffusion import __version__
from rapid_diffusion.errors import InvalidRequestError
from server.control import Control
from server.errors import Problem, answer_crash, answer_http_error, answer_problem
from server.keys import Key, Keys
from server.middleware import Guard, RequestContext
from server.protocol import PatientProtocol
from server.routes import admin, health
from server.service import Service
from server.settings import Settings

logger = logging.getLogger(__name__)


def create_admin_app(service: Service, control: Control) -> FastAPI:
    """`/admin/…`, the probes and the metrics of a service; the token is asked for `/admin/…`."""
    app = FastAPI(
        title="Rapid Diffusion, for operators",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            Problem: answer_problem,
            HTTPException: answer_http_error,
            Exception: answer_crash,
        },
    )
    app.state.service, app.state.control = service, control
    for room in (admin, health):
        app.include_router(room.router)
    digest = service.settings.admin_token_sha256
    token = None if digest is None else Keys([Key(name="admin", sha256=digest)])
    own = service.settings.model_copy(update={"host": service.settings.admin_host})
    app.add_middleware(Guard, settings=own, keys=token)
    app.add_middleware(RequestContext, metrics=service.metrics)
    return app


class AdminPort:
    """A socket that listens from the start, and the thread that answers once there is an app.

    Raises `InvalidRequestError` where the address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.admin_port is not None, "there is a port"
        host, port = settings.admin_host, settings.admin_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise InvalidRequestError(
                "admin_port", f"{host}:{port} cannot be listened on ({error}); choose another one"
            ) from error
        self.port = int(self._socket.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: FastAPI) -> None:
        """Answer with `app` from now on."""
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="admin", daemon=True
        )
        self._thread.start()
        logger.info("operators: http://%s:%d", self._socket.getsockname()[0], self.port)

    def close(self) -> None:
        """Stop answering; harmless where it never did."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._socket.close()
