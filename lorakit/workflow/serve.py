"""``lorakit serve``: finished runs over one backbone as an HTTP service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from signal import SIGINT
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import TYPE_CHECKING

from lorakit.errors import RunError, UsageError
from lorakit.result import Result
from lorakit.workflow.open_adapters import open_adapters
from lorakit.workflow.serving.service import Limits, Service, make_app

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger(__name__)

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Served(Result):
    """What a service came to.

    Attributes:
        address: where it was.
        adapters: the names it answered for.
        requests: that got their labels.
        texts: of these.
        seconds: that it ran.
    """

    address: str
    adapters: list[str]
    requests: int
    texts: int
    seconds: float


def serve(
    *runs: str | Path | Mapping[str, str | Path],
    host: str = LOCAL,
    port: int = 8000,
    weights: str | None = None,
    batch_size: int = 32,
    wait: float = 5.0,
    max_texts: int = Limits.texts,
    max_characters: int = Limits.characters,
    max_body: int = Limits.body,
    max_waiting: int = Limits.waiting,
    linger: float = 0.5,
    on_ready: Callable[[str], None] | None = None,
) -> Served:
    """Serve finished runs over one backbone by HTTP, until the process gets SIGTERM or Ctrl-C; what was accepted by then is answered.

    ``POST /predict {"adapter": NAME, "texts": [...]}`` labels texts, pairs as lists of two; ``GET /health``, ``GET /metrics``.

    Args:
        runs: as ``open_adapters`` takes them.
        host: the address it listens at; this machine alone can ask by default.
        port: the port; 0 for a free one.
        weights: as ``open_adapters`` takes it.
        batch_size: texts computed at once, of whatever requests and adapters.
        wait: milliseconds that a text waits for others to be computed with.
        max_texts: of a request.
        max_characters: of a text.
        max_body: bytes of a request.
        max_waiting: texts that may wait; further requests are told to come later.
        linger: seconds in which new requests are still answered, each connection closed behind its answer, before it stops listening.
        on_ready: is told the address once it listens.

    Returns:
        How much was answered.

    Raises:
        UsageError: where the extra ``serve`` is not installed, and for runs that ``open_adapters`` refuses.
        RunError: where the address cannot be listened at, and for runs that are not finished.

    Example:
        >>> lorakit.serve("runs/films-0", "topics=runs/news-0", port=8080)     # doctest: +SKIP
    """
    check_installed()
    for name, number in (("batch_size", batch_size), ("max_texts", max_texts), ("max_characters", max_characters)):
        if number < 1:
            raise UsageError(f"{name} is {number}", valid="1 or more")
    with bound(host, port) as listening:
        address = address_of(listening)
        model = open_adapters(*runs, weights=weights)
        limits = Limits(max_texts, max_characters, max_body, max_waiting)
        service = Service(model, limits, batch_size=batch_size, wait=wait / 1000)
        if not is_local(host):
            logger.warning("whoever reaches %s may ask: there is no password and no encryption", address)
        began = time.monotonic()
        run_until_ended(service, listening, linger, partial(on_ready or (lambda address: None), address))
    return Served(address, model.names, service.answered, service.labelled, time.monotonic() - began)


def check_installed() -> None:
    """UsageError where the extra is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        what = f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UsageError(what, hint="pip install 'lorakit[serve]'")


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket:
    """A socket at this address, which does not listen yet. RunError where there can be none."""
    family = AF_INET6 if ":" in host else AF_INET
    found = socket(family, SOCK_STREAM)
    found.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        what = f"cannot be listened at: {getattr(error, 'strerror', None) or error}"
        raise RunError(what, where=f"{host} port {port}", valid="a free port", hint="--port 0 takes one") from None
    return found


def address_of(listening: socket) -> str:
    """Its URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_until_ended(service: Service, listening: socket, linger: float, on_ready: Callable[[], None]) -> None:
    """Answer requests until a signal ends that."""
    import uvicorn

    class Server(uvicorn.Server):
        """Goes on for a moment after the first signal, then answers what it has and ends; a second Ctrl-C ends it at once."""

        ends = 0.0

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not service.stopping:
                service.stopping, self.ends = True, time.monotonic() + linger
            elif sig == SIGINT:
                super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            if service.stopping and time.monotonic() >= self.ends:
                self.should_exit = True
            return bool(await super().on_tick(counter))

        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

    config = uvicorn.Config(make_app(service), lifespan="on", log_level="error", access_log=False)
    asyncio.run(Server(config).serve([listening]))
