"""A server on the loopback answers as the predictor and the stream do, within its limits."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from socket import create_connection

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import isospike as iso
from isospike.errors import ConfigError
from isospike.serve import Limits
from isospike.serve.app import create_app
from isospike.serve.limits import Rates
from isospike.serve.service import Service
from isospike.serve.sessions import EVENT

DIGITS, CAMERA = "ms_resnet20.digits", "ms_resnet8.camera_digits"


@contextlib.contextmanager
def serving(weights, **limits):
    """The port of a server in a thread of this process."""
    service = Service(iso.models.WEIGHTS[weights](), Limits(**limits))
    config = uvicorn.Config(create_app(service), port=0, log_level="warning", ws_max_size=service.limits.bytes,
                            ws="websockets-sansio")  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def digits():
    with serving(DIGITS, megabytes=0.5, timeout_s=1.0) as port:
        yield port


@pytest.fixture(scope="module")
def camera():
    with serving(CAMERA, streams=2, timeout_s=1.0, windows=50) as port:
        yield port


def picture(seed=0, size=20):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def ask(port, body, method="POST", path="/predict", **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text, answer.headers


def test_images_get_the_answer_of_the_predictor(digits):
    predictor = iso.Predictor(iso.models.WEIGHTS[DIGITS]())
    for seed in range(3):
        pixels, body = picture(seed)
        status, text, _ = ask(digits, body)
        assert status == 200
        (best, *_) = json.loads(text)["predictions"]
        (expected, *_) = predictor(pixels).top(1)[0]
        assert best["class"] == expected[0]
        assert best["probability"] == pytest.approx(expected[1], abs=1e-5)


def test_images_that_come_together_go_together(digits):
    def batches():
        text = ask(digits, None, "GET", "/metrics")[1].decode()
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("isospike_b")}

    before = batches()
    answers = []
    threads = [threading.Thread(target=lambda s=s: answers.append(ask(digits, picture(s)[1]))) for s in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _, _ in answers] == [200] * 24
    after = batches()
    assert after["isospike_batch_images_sum"] - before["isospike_batch_images_sum"] == 24
    assert after["isospike_batch_images_count"] - before["isospike_batch_images_count"] < 24


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "the body is empty: send the content of an image file"),
        (b"no image" * 9, 400, "the body of the request cannot be read as an image"),
        (b"\0" * 600_000, 413, "the body is larger than 0.5 MB: scale the image down"),
        (picture()[1][:60], 400, "the body of the request cannot be read as an image"),
    ],
)
def test_a_body_that_cannot_be_used_gets_one_sentence(digits, body, status, sentence):
    found, text, _ = ask(digits, body)
    assert found == status
    assert sentence in json.loads(text)["error"]
    assert ask(digits, picture()[1])[0] == 200


def test_a_body_without_a_length_is_cut_off_where_it_is_too_large(digits):
    found, text, _ = ask(digits, iter([b"\0" * 100_000] * 7))
    assert (found, "larger than 0.5 MB" in json.loads(text)["error"]) == (413, True)


def test_a_body_that_does_not_arrive_is_given_up(digits):
    connection = HTTPConnection("127.0.0.1", digits, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "1000")
    connection.endheaders(b"begun")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]) == (408, "the body did not arrive in 1 s")
    connection.close()
    connection = HTTPConnection("127.0.0.1", digits, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", "1000")
    connection.endheaders(b"begun")
    connection.close()  # a client that leaves
    assert ask(digits, picture()[1])[0] == 200
    assert json.loads(ask(digits, None, "GET", "/health")[1])["requests"] == 0


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/", 404)])
def test_what_is_no_route_gets_a_sentence(digits, method, path, status):
    found, text, _ = ask(digits, None, method, path)
    assert found == status
    assert json.loads(text)["error"].startswith(f"{method} {path} is no route of this server")


def test_a_message_that_is_too_large_closes_its_stream(digits):
    """Also where it is small as it comes: half a megabyte of zeros is compressed."""
    with connect(f"ws://127.0.0.1:{digits}/stream") as socket:
        socket.send(b"\0" * 500_001)
        assert not [*until_closed(socket)]
    assert socket.close_code == 1009
    assert ask(digits, picture()[1])[0] == 200


def test_a_stream_that_asks_too_often_is_closed():
    with serving(DIGITS, rate=2.0) as port, connect(f"ws://127.0.0.1:{port}/stream") as socket:
        for _ in range(4):
            socket.send(picture()[1])
        *said, last = until_closed(socket)
    assert [one["steps"] for one in said] == [1, 2]
    assert last["error"].startswith("more than 2 requests a second: try again in 0.")
    assert socket.close_code == 1008


def test_too_many_requests_are_sent_away():
    with serving(DIGITS, rate=2.0) as port:
        answers = [ask(port, picture()[1]) for _ in range(4)]
    assert [status for status, _, _ in answers][:3] == [200, 200, 429]
    assert "more than 2 requests a second" in json.loads(answers[2][1])["error"]
    assert answers[2][2]["retry-after"] == "1"
    rates = Rates(0.5)
    assert rates.wait("a") == 0
    assert 1.9 < rates.wait("a") <= 2
    assert rates.wait("b") == 0


def test_where_all_places_are_taken_the_next_is_told(digits):
    with serving(DIGITS, waiting=1, timeout_s=1.0) as port:
        slow = HTTPConnection("127.0.0.1", port, timeout=20)
        slow.putrequest("POST", "/predict")
        slow.putheader("content-length", "1000")
        slow.endheaders(b"begun")
        while json.loads(ask(port, None, "GET", "/health")[1])["requests"] == 0:
            time.sleep(0.01)
        status, text, headers = ask(port, picture()[1])
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(text)["error"] == "1 requests are in progress: try again"
        assert slow.getresponse().status == 408
        slow.close()


def test_health_says_what_a_client_must_know(digits, camera):
    facts = json.loads(ask(digits, None, "GET", "/health")[1])
    assert (facts["status"], facts["reads"], facts["size"], facts["channels"]) == ("ok", "images", 16, 1)
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert json.loads(ask(camera, None, "GET", "/health")[1])["reads"] == "events"
    assert "this network reads events" in json.loads(ask(camera, picture()[1])[1])["error"]


def until_closed(socket):
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield json.loads(socket.recv(timeout=20))


def events(count=4000, seed=0, size=32):
    rng = np.random.default_rng(seed)
    found = np.zeros(count, EVENT)
    found["t"] = np.sort(rng.integers(0, 100_000, count))
    found["x"], found["y"], found["p"] = rng.integers(0, size, (2, count)).tolist() + [rng.integers(0, 2, count)]
    return found


def test_a_stream_of_events_gets_the_decisions_of_the_package(camera):
    found = events()
    stream = iso.Stream(iso.models.WEIGHTS[CAMERA](), window=10_000, sensor=(32, 32))
    expected = [*stream(tuple(found[name].astype(np.int64) for name in "txyp")), *stream.end()]
    assert len(expected) > 5
    with connect(f"ws://127.0.0.1:{camera}/stream?window=10000&sensor=32x32") as socket:
        socket.send(found[:1500].tobytes())
        rest = found[1500:]
        socket.send(json.dumps({name: rest[name].tolist() for name in "txyp"}))
        socket.send("end")
        decisions = [json.loads(socket.recv(timeout=20)) for _ in expected]
    for decision, one in zip(decisions, expected, strict=True):
        assert (decision["window"], decision["start_us"], decision["events"]) == (one.number, one.start, one.events)
        assert decision["predictions"][0]["class"] == one.label
        assert decision["predictions"][0]["probability"] == float(one.probabilities.max())


def test_a_stream_of_frames_carries_potentials_on(digits):
    predictor = iso.Predictor(iso.models.WEIGHTS[DIGITS]())
    frames = [picture(seed) for seed in range(3)]
    clip = torch.stack([predictor.prepare([pixels]) for pixels, _ in frames])
    with torch.no_grad():
        per_step = predictor.model(clip, per_step=True)[:, 0].double()
    with connect(f"ws://127.0.0.1:{digits}/stream") as socket:
        for _ in range(2):  # the second time from rest again
            for step, (_, body) in enumerate(frames, 1):
                socket.send(body)
                said = json.loads(socket.recv(timeout=20))
                shares = per_step[:step].mean(0).softmax(-1)
                assert said["steps"] == step
                assert said["predictions"][0]["probability"] == pytest.approx(float(shares.max()), abs=1e-9)
            socket.send("end")


def test_as_many_windows_as_a_message_may_end_are_answered():
    def event(t):
        return json.dumps({"t": [t], "x": [1], "y": [1], "p": [1]})

    with serving(CAMERA, windows=8) as port, connect(f"ws://127.0.0.1:{port}/stream?window=100&sensor=32x32") as socket:
        for t in (1, 801, 901):  # which end no window, eight and one
            socket.send(event(t))
        assert [json.loads(socket.recv(timeout=20))["window"] for _ in range(9)] == [*range(9)]
        socket.send(event(1801))  # nine
        said = [*until_closed(socket)]
    assert [one.get("window") for one in said] == [*range(9, 17), None]
    assert "may end 8 windows" in said[-1]["error"]


@pytest.mark.parametrize(
    ("query", "message", "sentence"),
    [
        ("window=1000", None, "the size of the sensor is missing"),
        ("sensor=32x32", None, "give one of window=microseconds and count=events"),
        ("sensor=32x32&window=x", None, "window is a whole number, got 'x'"),
        ("sensor=32x32&wndow=5", None, "unknown option 'wndow' of a stream"),
        ("sensor=8x8&window=1000", None, "is smaller than the frames of this network"),
        ("sensor=32x32&window=1000", b"\0" * 14, "a binary message is of 13 bytes an event, and this has 14"),
        ("sensor=32x32&window=1000", "hello", 'a text message is {"t": [...]'),
        ("sensor=32x32&window=1000", '{"t": 1, "x": 1, "y": 1, "p": 1}', 'a text message is {"t": [...]'),
        ("sensor=32x32&window=1000", '{"t": [1], "x": [40], "y": [1], "p": [1]}', "40"),
        ("sensor=32x32&window=9", '{"t": [1, 999], "x": [1, 1], "y": [1, 1], "p": [1, 1]}', "may end 50 windows"),
        ("sensor=32x32&window=1000", "", "a text message is"),
        ("sensor=32x32&window=1000", None, "no message came in 1 s"),
    ],
)
def test_a_stream_that_cannot_go_on_says_why(camera, query, message, sentence):
    with connect(f"ws://127.0.0.1:{camera}/stream?{query}") as socket:
        if message is not None:
            socket.send(message)
        said = [*until_closed(socket)]
    assert sentence in said[-1]["error"]
    assert socket.close_code in (1001, 1008)


def test_more_streams_than_there_may_be_are_told(camera):
    where = f"ws://127.0.0.1:{camera}/stream?window=1000&sensor=32x32"
    with connect(where), connect(where):
        while json.loads(ask(camera, None, "GET", "/health")[1])["streams"] < 2:
            time.sleep(0.01)
        with connect(where) as third:
            assert "2 streams are open" in json.loads(third.recv(timeout=20))["error"]
    while json.loads(ask(camera, None, "GET", "/health")[1])["streams"]:
        time.sleep(0.01)


def test_limits_out_of_their_range_are_refused():
    for wrong in ({"batch": 0}, {"delay_ms": -1}, {"rate": 0.0}, {"megabytes": float("nan")}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
            Limits(**wrong)
    assert Limits(delay_ms=0).delay_ms == 0


def refused(port):
    try:
        create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    command = [sys.executable, "-m", "isospike", "serve", DIGITS, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        for line in server.stderr:  # notes may come before
            where = re.search(r"at http://127\.0\.0\.1:(\d+) ", line)
            if where:
                break
        port = int(where[1])
        while True:
            try:
                status, _, _ = ask(port, picture()[1])
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert status == 200
        again = subprocess.run([*command[:-1], str(port)], capture_output=True, text=True)
        assert (again.returncode, "nothing can listen at" in again.stderr) == (2, True)
        body, begun = picture()[1], HTTPConnection("127.0.0.1", port, timeout=20)
        begun.putrequest("POST", "/predict")
        begun.putheader("content-length", str(len(body)))
        begun.endheaders(body[:50])
        while json.loads(ask(port, None, "GET", "/health")[1])["requests"] == 0:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        while not refused(port):
            time.sleep(0.01)
        begun.send(body[50:])  # what has begun may end
        assert begun.getresponse().status == 200
        assert server.wait(timeout=20) == 0
        assert "Traceback" not in server.stderr.read()
