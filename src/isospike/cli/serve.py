"""``isospike serve``: a trained network behind HTTP."""

import signal
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from isospike.cli.console import Checkpoint, Device, Import, err
from isospike.errors import ConfigError
from isospike.optional import import_optional
from isospike.own_rows import import_rows
from isospike.predictor import trained_network
from isospike.processes import open_world
from isospike.serve import Limits

GRACE = 10  # seconds that requests in progress have once the server is told to stop


def serve_command(
    run: Annotated[Path, typer.Argument(help="Run folder, or weights that come with the package.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = Limits.batch,
    delay: Annotated[
        float, typer.Option(min=0, metavar="MS", help="Milliseconds that an image waits for others at most.")
    ] = Limits.delay_ms,
    waiting: Annotated[
        int, typer.Option(min=1, help="Requests in progress at a time; more are answered 503.")
    ] = Limits.waiting,
    megabytes: Annotated[float, typer.Option(help="Largest body of a request, or message.")] = Limits.megabytes,
    rate: Annotated[float | None, typer.Option(help="Requests a second of one client; by default any number.")] = None,
    streams: Annotated[int, typer.Option(min=1, help="Streams that are open at a time.")] = Limits.streams,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Seconds for a body to arrive, and between messages of a stream.")
    ] = Limits.timeout_s,
    checkpoint: Checkpoint = "last",
    import_: Import = None,
    device: Device = "auto",
) -> None:
    """Serve a trained network: images by POST /predict, events or frames by a WebSocket at /stream."""
    import_rows(import_)
    uvicorn: Any = import_optional("uvicorn", extra="serve", purpose="isospike serve")
    import_optional("starlette", extra="serve", purpose="isospike serve")
    from isospike.serve.app import create_app  # here: it imports starlette
    from isospike.serve.service import Service

    limits = Limits(batch, delay, waiting, megabytes, rate, streams, timeout_s=timeout)
    with open_world(device) as world:
        service = Service(trained_network(run, checkpoint).to(world.device), limits)
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            ws="websockets-sansio",
            ws_max_size=limits.bytes,
            timeout_graceful_shutdown=GRACE,
        )
        with _listening(host, port) as listener:
            where = f"http://{host}:{listener.getsockname()[1]}"
            err.print(f"serving {run} at {where} (Ctrl-C stops)", markup=False, highlight=False, soft_wrap=True)
            for stop in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again once all requests have ended
                signal.signal(stop, lambda *_: None)
            uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise ConfigError(f"nothing can listen at {host}:{port}: {error.strerror or error}") from error
