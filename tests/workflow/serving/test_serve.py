"""The service answers as the runs do, says what is wrong with a request, and ends without losing one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support.runs import Bench, make_rows

import lorakit
from lorakit.errors import RunError, UsageError
from lorakit.workflow import serve as serving
from lorakit.workflow.open_adapters import Adapters
from lorakit.workflow.serving import service as service_module
from lorakit.workflow.serving.service import Limits, Service, make_app

for package in serving.NEEDED:
    pytest.importorskip(package, reason="needs the extra 'serve'")

TEXTS = [row["sentence"] for row in make_rows(12, seed=5)]
LIMITS = Limits(texts=12, characters=100, body=2000)


@pytest.fixture(scope="module")
def runs(bench: Bench) -> dict[str, Path]:
    """Two runs of one step."""
    return {
        kind: bench.train("training.max_steps=1", "training.lr=0.1", kind=kind, name=f"served-{kind}").run_dir
        for kind in ("one", "pair")
    }


@pytest.fixture(scope="module")
def model(runs: dict[str, Path]) -> Adapters:
    return lorakit.open_adapters(runs)


@pytest.fixture
def service(model: Adapters) -> Service:
    return Service(model, LIMITS, batch_size=8, wait=0.005)


Answer = tuple[int, dict[str, str], str]


def ask(
    service: Service,
    *requests: tuple[str, bytes | dict[str, Any] | None],
    kind: bytes = b"application/json",
    stalls: bool = False,
) -> list[Answer]:
    """(status, headers, body) of requests that come at once: (path, body), those with a body by POST; stalls: of which half never comes."""
    app = make_app(service)

    async def one(path: str, given: bytes | dict[str, Any] | None) -> Answer:
        body = json.dumps(given).encode() if isinstance(given, dict) else given or b""
        half = len(body) // 2
        parts = iter([(body[:half], True), (body[half:], False)])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            part, more = next(parts, (None, False))
            if stalls and not more:
                await asyncio.sleep(10)
            left = {"type": "http.disconnect"}
            return left if part is None else {"type": "http.request", "body": part, "more_body": more}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        method = "GET" if given is None else "POST"
        scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-type", kind)]}
        await app(scope | {"query_string": b"", "http_version": "1.1", "scheme": "http"}, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(each.get("body", b"") for each in sent[1:]).decode()

    async def all_of_them() -> list[Answer]:
        async with app.router.lifespan_context(app):
            return list(await asyncio.gather(*(one(*request) for request in requests)))

    return asyncio.run(all_of_them())


def test_answers_are_those_of_the_runs(service: Service, runs: dict[str, Path]):
    pairs = [text.split(" ", 1) for text in TEXTS]
    asked = [({"adapter": "one", "texts": [text]}, text) for text in TEXTS[:6]]
    found = ask(service, *(("/predict", body) for body, _ in asked), ("/predict", {"adapter": "pair", "texts": pairs}))
    expected = lorakit.predict(runs["one"], TEXTS[:6])
    for (status, _, body), one in zip(found, expected, strict=False):
        assert (status, json.loads(body)["adapter"]) == (200, "one")
        (answer,) = json.loads(body)["predictions"]
        assert (answer["label"], answer["labels"]) == (one.label, [*one.labels])
        assert answer["probabilities"] == pytest.approx(one.probabilities, abs=1e-6)
    several = json.loads(found[-1][2])["predictions"]
    for answer, pair in zip(several, lorakit.predict(runs["pair"], [tuple(each) for each in pairs]), strict=True):  # type: ignore[misc]
        assert answer["probability"] == pytest.approx(pair.probability, abs=1e-6)
    ((_, _, metrics),) = ask(service, ("/metrics", None))
    assert 'lorakit_requests_total{adapter="one",status="200"} 6.0' in metrics
    assert "lorakit_batch_texts_sum 18.0" in metrics  # 6 of one shared a batch or two
    assert 'lorakit_texts_total{adapter="pair"} 12.0' in metrics
    assert (service.answered, service.labelled) == (7, 18)


@pytest.mark.slow
def test_a_mixture_answers_beside_a_plain_adapter(bench: Bench, runs: dict[str, Path]):
    settings = ("training.max_steps=1", "training.lr=0.1")
    mixed = bench.train("adapter.method=hydralora", *settings, name="served-mixture").run_dir
    service = Service(lorakit.open_adapters({"one": runs["one"], "mixed": mixed}), LIMITS, batch_size=8, wait=0.005)
    names = ["one", "mixed"] * 3
    found = ask(
        service, *(("/predict", {"adapter": name, "texts": [text]}) for name, text in zip(names, TEXTS, strict=False))
    )
    for name, text, (status, _, body) in zip(names, TEXTS, found, strict=False):
        (expected,) = lorakit.predict({"one": runs["one"], "mixed": mixed}[name], [text])
        (answer,) = json.loads(body)["predictions"]
        assert (status, answer["label"]) == (200, expected.label)
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_blank_texts_and_none_at_all(service: Service):
    found = ask(
        service, ("/predict", {"adapter": "one", "texts": [" "]}), ("/predict", {"adapter": "one", "texts": []})
    )
    blank, none = (json.loads(body)["predictions"] for _, _, body in found)
    assert blank == [{"label": "", "probability": None, "probabilities": None, "labels": []}]
    assert none == []


@pytest.mark.parametrize(
    ("body", "status", "error", "valid"),
    [
        ({"adapter": "on", "texts": ["a"]}, 404, "there is no adapter 'on'", "one, pair"),
        ({"texts": ["a"]}, 422, "no adapter is named", "one, pair"),
        ({"adapter": "one", "texts": ["a"] * 13}, 422, "13 texts are too many", "up to 12 a request"),
        ({"adapter": "one", "texts": ["a", "b" * 101]}, 422, "text 2 has 101 characters", "up to 100"),
        ({"adapter": "pair", "texts": [["a", "b" * 101]]}, 422, "text 1 has 101 characters", "up to 100"),
        ({"adapter": "pair", "texts": ["a"]}, 422, "text 1 is not what adapter 'pair' labels", "a list of two texts"),
        ({"adapter": "one", "texts": [["a", "b"]]}, 422, "text 1 is not what adapter 'one' labels", "a text"),
        ({"adapter": "one", "texts": "a"}, 422, "texts: Input should be a valid list", '{"adapter": NAME'),
        ({"adapter": "one", "texts": [1]}, 422, "texts: Input should be a valid string", '{"adapter": NAME'),
        ({"adapter": "one", "texts": [], "top": 1}, 422, "top: Extra inputs are not permitted", '{"adapter": NAME'),
        ({"adapter": "one"}, 422, "texts: Field required", '{"adapter": NAME'),
        (b"{nope", 400, "the body is no JSON", '{"adapter": NAME'),
        (b"[" * 2000, 400, "the body is no JSON", '{"adapter": NAME'),
        (b'{"adapter": "\xff"}', 400, "the body is no JSON", '{"adapter": NAME'),
        ({"adapter": "\ud83d", "texts": ["a"]}, 404, "there is no adapter '\ud83d'", "one, pair"),
        (b"a" * 2001, 413, "the request is too large", "up to 2,000 bytes"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    service: Service, body: bytes | dict[str, Any], status: int, error: str, valid: str
):
    ((found, headers, text),) = ask(service, ("/predict", body))
    told = json.loads(text)
    assert (found, told["error"]) == (status, error)
    assert told["valid"].startswith(valid)
    assert headers.get("connection") == ("close" if status == 413 else None)
    ((_, _, metrics),) = ask(service, ("/metrics", None))
    assert f'status="{status}"}} 1.0' in metrics


def test_half_of_a_surrogate_pair_is_no_text(service: Service):
    ((status, _, body),) = ask(service, ("/predict", {"adapter": "one", "texts": ["a", "b \ud83d"]}))
    told = {"error": "text 2 has half of a surrogate pair, which is no character"}
    assert (status, json.loads(body)) == (422, told)


def test_what_is_asked_elsewhere_or_not_as_json_is_said(service: Service):
    (elsewhere, got) = ask(service, ("/nothing", None), ("/predict", None))
    assert (elsewhere[0], json.loads(elsewhere[2])["error"]) == (404, "GET /nothing: Not Found")
    assert (got[0], json.loads(got[2])["valid"]) == (405, "POST /predict, GET /health, GET /metrics")
    assert got[1]["allow"] == "POST"
    ((status, _, body),) = ask(service, ("/predict", {"adapter": "one", "texts": ["a"]}), kind=b"text/plain")
    said = {"error": "the body is not said to be JSON", "valid": "Content-Type: application/json"}
    assert (status, json.loads(body)) == (415, said)


def test_a_body_that_does_not_come_ends(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service_module, "BODY_SECONDS", 0.01)
    ((status, headers, body),) = ask(service, ("/predict", b"{}"), stalls=True)
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body) == {"error": "the request did not come", "valid": "all of it within 0.01 seconds"}


def test_one_adapter_need_not_be_named(model: Adapters, runs: dict[str, Path]):
    alone = Service(lorakit.open_adapters(runs["one"]), LIMITS, batch_size=8, wait=0.0)
    ((status, _, _),) = ask(alone, ("/predict", {"texts": ["good film"]}))
    assert status == 200


def test_more_than_may_wait_is_told_to_come_later(model: Adapters):
    service = Service(model, Limits(waiting=2), batch_size=8, wait=0.0)
    with mock.patch.object(model, "outputs", side_effect=slowly(model)):
        found = ask(service, *[("/predict", {"adapter": "one", "texts": [text, text]}) for text in TEXTS[:3]])
    assert sorted(status for status, _, _ in found) == [200, 503, 503]
    assert {json.loads(body)["error"] for status, _, body in found if status == 503} == {"2 texts wait already"}


def slowly(model: Adapters) -> Any:
    whole = model.outputs

    def outputs(*arguments: Any) -> Any:
        time.sleep(0.1)
        return whole(*arguments)

    return outputs


def test_health_says_that_it_ends(service: Service):
    ((status, headers, body),) = ask(service, ("/health", None))
    assert (status, json.loads(body)) == (200, {"status": "ready", "adapters": ["one", "pair"]})
    assert "connection" not in headers
    service.stopping = True
    ((status, headers, body),) = ask(service, ("/health", None))
    assert (status, json.loads(body)["status"], headers["connection"]) == (503, "stopping", "close")


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_signal_ends_it_and_loses_nothing(model: Adapters, signals: Sequence[signal.Signals]):
    """Ten requests are on their way when the signal comes; who sends it twice gets the same end."""
    found: list[tuple[int, str]] = []

    def post(address: str, text: str) -> tuple[int, str]:
        body = json.dumps({"adapter": "one", "texts": [text]}).encode()
        request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())["predictions"][0]["label"]

    def clients(address: str) -> None:
        with ThreadPoolExecutor(10) as pool:
            asked = [pool.submit(post, address, text) for text in TEXTS[:10]]
            while len(computed) < 1:
                time.sleep(0.005)
            for sig in signals:
                os.kill(os.getpid(), sig)
                time.sleep(0.02)
            found.extend(each.result() for each in asked)

    computed: list[int] = []
    whole = model.outputs

    def outputs(texts: Sequence[Any], *others: Any) -> Any:
        computed.append(len(texts))
        time.sleep(0.05)
        return whole(texts, *others)

    threads: list[threading.Thread] = []

    def ready(address: str) -> None:
        threads.append(threading.Thread(target=clients, args=(address,)))
        threads[0].start()

    with (
        mock.patch.object(model, "outputs", side_effect=outputs),
        mock.patch.object(serving, "open_adapters", return_value=model),
    ):
        result = lorakit.serve("any", port=0, batch_size=2, linger=0.0, on_ready=ready)
    threads[0].join()
    assert found == [(200, each.label) for each in model.predict(TEXTS[:10], adapter="one")]
    assert (result.requests, result.texts, result.adapters) == (10, 10, ["one", "pair"])
    assert result.address.startswith("http://127.0.0.1:")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_that_is_taken(taken: int):
    with pytest.raises(RunError, match=rf"127.0.0.1 port {taken}: cannot be listened at: Address already in use"):
        lorakit.serve("any", port=taken)


def test_without_the_extra_it_says_so():
    with (
        mock.patch.object(serving, "find_spec", side_effect=lambda name: None if name == "uvicorn" else name),
        pytest.raises(
            UsageError, match=r"needs uvicorn, which is not installed\n    try: pip install 'lorakit\[serve\]'"
        ),
    ):
        lorakit.serve("any")


def test_who_reaches_it_is_known():
    hosts = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.2", "example.org")
    assert [serving.is_local(host) for host in hosts] == [True] * 3 + [False] * 3
