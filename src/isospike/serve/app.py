"""The routes of a server: ``/predict``, ``/stream``, ``/health``, ``/metrics``."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from isospike.errors import DataError, IsospikeError
from isospike.serve.service import Service

# Codes of RFC 6455 and its registry, with which a stream is closed.
TRY_AGAIN, NOT_ALLOWED, GONE = 1013, 1008, 1001


class Refusal(Exception):
    """An answer that is no prediction: its status, and one sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, {key.replace("_", "-"): value for key, value in headers.items()}


def create_app(service: Service) -> Starlette:
    """Build the application that answers for ``service``; it starts and stops the service."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    async def predict(request: Request) -> Response:
        began = monotonic()
        answer = await _answered(service, request)
        service.metrics.requests.labels(str(answer.status_code)).inc()
        service.metrics.seconds.observe(monotonic() - began)
        return answer

    async def health(request: Request) -> Response:
        return JSONResponse(service.facts())

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), headers={"content-type": service.metrics.content_type})

    async def stream(socket: WebSocket) -> None:
        await _stream(service, socket)

    routes = [
        Route("/predict", predict, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        WebSocketRoute("/stream", stream),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer a path that is not there, or a method that it does not have."""
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path[:80]} is no route of this server: see POST /predict, GET /health"
    return JSONResponse({"error": sentence}, error.status_code, headers=error.headers)


async def _answered(service: Service, request: Request) -> Response:
    """Predict, or say in one sentence why not."""
    try:
        _check_rate(service, request)
        if service.reads_events:
            raise Refusal(404, "this network reads events: open a WebSocket at /stream")
        if service.requests >= service.limits.waiting:
            raise Refusal(503, f"{service.requests} requests are in progress: try again", retry_after="1")
        service.requests += 1
        service.metrics.waiting.set(service.requests)
        try:
            predictions = await service.predict(await _body(service, request))
        finally:
            service.requests -= 1
            service.metrics.waiting.set(service.requests)
        return JSONResponse({"predictions": predictions})
    except Refusal as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status, headers=refusal.headers)
    except DataError as error:
        return JSONResponse({"error": str(error)}, 400)
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it: the client has left


def _check_rate(service: Service, connection: HTTPConnection) -> None:
    seconds = service.rates.wait(connection.client.host if connection.client else "")
    if seconds:
        sentence = f"more than {service.limits.rate:g} requests a second: try again in {seconds:.1f} s"
        raise Refusal(429, sentence, retry_after=str(math.ceil(seconds)))


async def _body(service: Service, request: Request) -> bytes:
    """Read the body of a request, which must end in time and not be too large."""
    largest = service.limits.bytes
    too_large = Refusal(413, f"the body is larger than {service.limits.megabytes:g} MB: scale the image down")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > largest:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(service.limits.timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > largest:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive in {service.limits.timeout_s:g} s") from None
    if not body:
        raise Refusal(400, "the body is empty: send the content of an image file")
    return bytes(body)


async def _stream(service: Service, socket: WebSocket) -> None:
    if service.streams >= service.limits.streams:
        await _refuse(socket, TRY_AGAIN, f"{service.streams} streams are open: try again later")
        return
    service.streams += 1
    service.metrics.streams.set(service.streams)
    try:
        await _converse(service, socket)
    except WebSocketDisconnect:
        pass  # the client has left
    finally:
        service.streams -= 1
        service.metrics.streams.set(service.streams)


async def _converse(service: Service, socket: WebSocket) -> None:
    try:
        session = await service.session(dict(socket.query_params))
    except IsospikeError as error:
        await _refuse(socket, NOT_ALLOWED, str(error))
        return
    await socket.accept()
    try:
        while True:
            async with asyncio.timeout(service.limits.timeout_s):
                message = await _message(socket)
            _check_rate(service, socket)
            await service.decide(session, message, socket.send_json)
    except TimeoutError:
        await _close(socket, GONE, f"no message came in {service.limits.timeout_s:g} s")
    except (IsospikeError, Refusal) as error:
        await _close(socket, NOT_ALLOWED, str(error))


async def _message(socket: WebSocket) -> str | bytes:
    received: dict[str, Any] = dict(await socket.receive())
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1000))
    text = received.get("text")
    return text if text is not None else received.get("bytes") or b""


async def _refuse(socket: WebSocket, code: int, sentence: str) -> None:
    """Accept a stream to say why there is none: a browser sees nothing of a handshake that is refused."""
    await socket.accept()
    await _close(socket, code, sentence)


async def _close(socket: WebSocket, code: int, sentence: str) -> None:
    """Say why, and close."""
    await socket.send_json({"error": sentence})
    await socket.close(code, sentence.encode()[:120].decode(errors="ignore"))  # a frame of control has 125 bytes
