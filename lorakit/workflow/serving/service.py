"""The HTTP service over opened adapters: /predict, /health, /metrics. FastAPI reads annotations as they are, not as text."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Optional

from lorakit.errors import LorakitError
from lorakit.tasks.new_texts import has_half_pair
from lorakit.workflow.open_adapters import Adapters
from lorakit.workflow.serving.collector import Collector, Full

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
NO_JSON = "the body is no JSON"
VALID = '{"adapter": NAME, "texts": [TEXT, ...]}, of pairs [[TEXT, TEXT], ...]'
PATHS = "POST /predict, GET /health, GET /metrics"
PATIENCE = 16  # times as much as may be is read of a body that is too large
BODY_SECONDS = 10.0  # that a body may take to come; without an end to that, a client could keep the service from ending


@dataclass(frozen=True)
class Limits:
    """texts: of a request; characters: of a text; body: bytes of a request; waiting: texts not answered yet."""

    texts: int = 256
    characters: int = 20_000
    body: int = 1 << 20
    waiting: int = 4096


class Refused(Exception):
    """A request that is not answered: the status and what is said."""

    def __init__(self, status: int, what: str, **details: str):
        super().__init__(what)
        self.status = status
        self.body = {"error": what} | {key: text for key, text in details.items() if text}


class Service:
    """What the end points share, and counts.

    Args:
        model: the adapters.
        limits: what a request may be.
        batch_size: texts that are computed at once.
        wait: seconds that a batch waits for more.
    """

    def __init__(self, model: Adapters, limits: Limits, *, batch_size: int, wait: float):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.model, self.limits, self.batch_size, self.wait = model, limits, batch_size, wait
        self.stopping = False
        """Whether the service ends: connections are closed behind each answer."""
        self.collector: Optional[Collector] = None
        self.registry = CollectorRegistry()
        here: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("lorakit_requests", "Requests to /predict", ["adapter", "status"], **here)
        self.texts = Counter("lorakit_texts", "Texts that were answered", ["adapter"], **here)
        self.seconds = Histogram("lorakit_request_seconds", "From a request's body to its answer", **here)
        sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        self.batches = Histogram("lorakit_batch_texts", "Texts computed together", buckets=sizes, **here)
        waiting = Gauge("lorakit_waiting_texts", "Texts that are not answered yet", **here)
        waiting.set_function(lambda: self.collector.waiting if self.collector else 0)
        memory = Gauge("lorakit_tensor_bytes", "Bytes of tensors: of the backbone, and of each adapter", ["of"], **here)
        memory.labels("backbone").set(model.backbone_bytes)
        for name in model.names:
            memory.labels(f"adapter {name}").set(model.bytes_of(name))
        self.answered = 0
        """Requests that got their labels."""
        self.labelled = 0
        """Texts of them."""

    def adapter(self, name: Optional[str]) -> str:
        """The adapter that a request means. Refused (404, 422) where there is none of that name, or it names none of several."""
        names = self.model.names
        if name is None and len(names) > 1:
            raise Refused(422, "no adapter is named", valid=", ".join(names))
        if name is not None and name not in names:
            raise Refused(404, f"there is no adapter '{name[:100]}'", valid=", ".join(names))
        return names[0] if name is None else name

    def check(self, name: str, texts: list[Any]) -> None:
        """Refused (422) for more or longer texts than may be, and for those that do not fit the adapter's task."""
        if len(texts) > self.limits.texts:
            raise Refused(422, f"{len(texts):,} texts are too many", valid=f"up to {self.limits.texts:,} a request")
        pair = self.model[name].pair
        for number, text in enumerate(texts, start=1):
            parts = text if isinstance(text, tuple) else (text,)
            if len(parts) != 1 + pair:
                valid = "a list of two texts" if pair else "a text"
                raise Refused(422, f"text {number} is not what adapter '{name}' labels", valid=valid)
            if any(map(has_half_pair, parts)):
                raise Refused(422, f"text {number} has half of a surrogate pair, which is no character")
            longest = max(map(len, parts))
            if longest > self.limits.characters:
                valid = f"up to {self.limits.characters:,}"
                raise Refused(422, f"text {number} has {longest:,} characters", valid=valid)

    async def predict(self, wanted: Optional[str], texts: list[Any]) -> dict[str, Any]:
        """The answer to a request."""
        name = self.adapter(wanted)
        self.check(name, texts)
        assert self.collector is not None
        try:
            answers = await self.collector.ask(texts, name) if texts else []
        except Full:
            raise Refused(
                503, f"{self.collector.waiting:,} texts wait already", hint="the same a little later"
            ) from None
        except LorakitError as error:
            raise Refused(500, error.problems[0].what) from None
        classifier = self.model[name]
        found = [asdict(classifier.prediction(text, own)) for text, own in zip(texts, answers, strict=True)]
        self.texts.labels(name).inc(len(texts))
        self.answered, self.labelled = self.answered + 1, self.labelled + len(texts)
        told = [{key: value for key, value in each.items() if key != "text"} for each in found]
        return {"adapter": name, "predictions": told}

    def count(self, wanted: Optional[str], status: int, began: float) -> None:
        """One more request; of a name that there is not, none is kept."""
        self.requests.labels(wanted if wanted in self.model.names else "", status).inc()
        self.seconds.observe(time.perf_counter() - began)


def make_app(service: Service) -> Any:
    """The ASGI application."""
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from pydantic import BaseModel, ConfigDict
    from starlette.exceptions import HTTPException

    class Wanted(BaseModel):
        """Texts, or pairs of them, and the adapter that is to label them; one that is alone need not be named."""

        model_config = ConfigDict(extra="forbid", strict=True)
        adapter: Optional[str] = None
        texts: list[str] | list[list[str]]

    @asynccontextmanager
    async def life(app: FastAPI) -> Any:
        service.collector = Collector(
            service.model.outputs,
            batch_size=service.batch_size,
            wait=service.wait,
            most=service.limits.waiting,
            seen=service.batches.observe,
        )
        yield
        await service.collector.close()

    app = FastAPI(title="lorakit", lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Doorkeeper, service=service)

    @app.exception_handler(RequestValidationError)
    async def not_as_asked(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refused(400, NO_JSON, VALID)
        if "json" not in request.headers.get("content-type", ""):
            return refused(415, "the body is not said to be JSON", "Content-Type: application/json")
        place = next((str(part) for part in first["loc"] if part != "body"), "body")
        return refused(422, f"{place}: {first['msg']}", VALID)

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # of a body that json cannot read: no UTF-8, or nested without end
            return refused(400, NO_JSON, VALID)
        told = {"error": f"{request.method} {request.url.path}: {error.detail}", "valid": PATHS}
        return Response(ascii_json(told), error.status_code, error.headers, "application/json")

    def refused(status: int, what: str, valid: str) -> Response:
        service.count(None, status, time.perf_counter())
        return Response(ascii_json({"error": what, "valid": valid}), status, media_type="application/json")

    @app.post("/predict")
    async def predict(wanted: Wanted) -> Any:
        began, status = time.perf_counter(), 500
        try:
            texts = [tuple(text) if isinstance(text, list) else text for text in wanted.texts]
            answer = await service.predict(wanted.adapter, texts)
            status = 200
            return JSONResponse(answer)
        except Refused as error:
            status = error.status
            return Response(ascii_json(error.body), status, media_type="application/json")
        finally:
            service.count(wanted.adapter, status, began)

    @app.get("/health")
    async def health() -> Any:
        state = {"status": "stopping" if service.stopping else "ready", "adapters": service.model.names}
        return JSONResponse(state, 503 if service.stopping else 200)

    @app.get("/metrics")
    async def metrics() -> Any:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def ascii_json(told: dict[str, str]) -> bytes:
    """What is said of a request, of which it may repeat anything, half of a surrogate pair too."""
    return json.dumps(told).encode()


class Doorkeeper:
    """Lets no body in that is larger than may be, whether or not its length is said, or that does not come; closes connections once the
    service ends."""

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Message, receive: Receive, send: Any) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused: Optional[Refused] = None
        body: Optional[bytes] = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self.body(scope, receive)
        except TimeoutError:
            refused = Refused(408, "the request did not come", valid=f"all of it within {BODY_SECONDS:g} seconds")
        except Refused as error:
            refused = error
        if body is None:
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def read() -> Message:
            return next(given, None) or await receive()

        async def write(message: Message) -> None:
            if message["type"] == "http.response.start" and (self.service.stopping or refused):
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        if refused:
            from fastapi.responses import JSONResponse

            self.service.count(None, refused.status, time.perf_counter())
            await JSONResponse(refused.body, refused.status)(scope, receive, write)
            return
        await self.app(scope, read, write)

    async def body(self, scope: Message, receive: Receive) -> Optional[bytes]:
        """A request's whole body; None where the client left. Refused (413) where it is too large."""
        body, came, more = b"", 0, True
        most = self.service.limits.body
        length = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = length.isdigit() and int(length) > most
        while more and came <= PATIENCE * most:  # a client that still sends does not read what it is told
            message = await receive()
            if message["type"] != "http.request":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            came += len(part)
            too_large = too_large or came > most
            body = b"" if too_large else body + part
        if too_large:
            raise Refused(413, "the request is too large", valid=f"up to {most:,} bytes")
        return body
