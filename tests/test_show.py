"""Recordings to look at: pictures, a cloud, a page that does not grow, and the same in the report of a run."""

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import event_files
import isospike as iso
from event_files import SENSOR, some_events
from helpers import enliven
from isospike.analysis import picture_recording
from isospike.drawing import draw_cloud, draw_frames
from isospike.errors import DataError
from isospike.events import Events, integrate
from isospike.events.pictures import BRIGHTER, DARKER, FAINT, FULL, coloured, film, gif, png, reduced, strong_count
from isospike.events.summary import summarise
from isospike.report import write_recording
from isospike.report.recording import MOST_POINTS, in_words, recording_sections
from isospike.report.sections.recording import film_html, recording
from report_runs import HOSTILE, Page, make_run, measure
from test_browser import render
from test_cli import call

SVG = "{http://www.w3.org/2000/svg}"
FEW = Events([0, 10, 900, 1000, 1000], [3, 3, 0, 1, 1], [0, 0, 2, 2, 2], [1, 1, 0, 1, 0], (4, 3))


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_colours_say_the_polarity_and_opacity_the_number():
    frame = np.zeros((2, 1, 5), np.int32)
    frame[0, 0, :4], frame[1, 0, 3] = (1, 10, 30, 2), 3
    picture = coloured(frame, 10)
    assert picture[0, :, :3].tolist()[:4] == [list(c) for c in (DARKER, DARKER, DARKER, BRIGHTER)]
    assert picture[0, :, 3].tolist() == [round(FAINT + (FULL - FAINT) * s) for s in (0.1, 1.0, 1.0, 0.5)] + [0]
    flat = np.asarray(decoded(png(picture)))[0]
    share = picture[0, :, 3:] / 255
    assert np.array_equal(flat, np.rint(share * picture[0, :, :3] + (1 - share) * 255))
    assert strong_count(frame) == 26  # the 95 % quantile of 1, 2, 3, 10 and 30
    assert strong_count(np.zeros((2, 1, 5), np.int32)) == 1


def test_a_film_has_its_frames_in_their_order_and_nothing_where_there_are_no_events():
    frames = np.zeros((4, 2, 6, 5), np.int32)
    for t, polarity in enumerate((0, 1, 0)):
        frames[t, polarity, t, 2] = 3
    picture = decoded(gif(frames, 3, 200))
    assert (picture.n_frames, picture.size, picture.info["duration"], picture.info["loop"]) == (4, (5, 6), 200, 0)
    shown = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(picture)]
    for t, colour in enumerate((DARKER, BRIGHTER, DARKER)):
        assert shown[t][t, 2].tolist() == [*colour, 255]
    assert [int((frame[..., 3] > 0).sum()) for frame in shown] == [1, 1, 1, 0]
    assert decoded(film(frames, frames.sum(0))["moving"]).info["duration"] == 400


def test_large_sensors_are_drawn_with_several_pixels_taken_together():
    events = Events(*np.array(some_events(300)).T, SENSOR)
    small = reduced(events, 50)
    assert small.sensor == (43, 40)
    whole = np.array([[0, 300]])
    counts = np.pad(integrate(events, whole)[0], ((0, 0), (0, 0), (0, 1))).reshape(2, 40, 3, 43, 3)
    assert np.array_equal(integrate(small, whole)[0], counts.sum((2, 4)))
    assert reduced(events, 128) is events


def test_a_summary_by_hand():
    summary = summarise(FEW)
    assert summary.as_dict() == {
        "events": 5, "sensor": (4, 3), "sensor_said": True, "start_us": 0, "duration_us": 1000, "events_per_s": 5000.0,
        "brighter": 0.6, "events_per_pixel": 5 / 12, "silent": 9 / 12, "busiest": (3, 0, 2),
    }  # fmt: skip
    said = "5 events of 4x3 pixels in 0.001 s, 5,000 per second"
    assert in_words(summary)[0] == said
    unknown = summarise(Events(FEW.t, FEW.x, FEW.y, FEW.p))
    assert (unknown.sensor, unknown.sensor_said) == ((4, 3), False)
    assert "4x3 pixels or more, which nobody says" in in_words(unknown)[0]
    assert summarise(FEW[:1]).events_per_s == 0
    far = Events([0, 1], [0, 65_535], [0, 65_535], [0, 1])
    assert summarise(far).silent == pytest.approx(1 - 2**-31)
    assert len(recording_sections(far)) == 4
    with pytest.raises(DataError, match="a recording without events has nothing to look at"):
        summarise(FEW[:0])


def places(path):
    return [tuple(map(float, at.split())) for at in path.removesuffix("h0")[1:].split("h0M")]


def test_a_cloud_has_a_point_for_every_event_in_its_box():
    rng = np.random.default_rng(0)
    t, x, y, p = rng.random(500), rng.integers(0, 40, 500), rng.integers(0, 20, 500), rng.integers(0, 2, 500)
    text = draw_cloud(t, x, y, p, sensor=(40, 20), ticks=[(0, "<0"), (1, "9")], title=HOSTILE, time="ms")
    root = ElementTree.fromstring(text)
    assert root.find(f"{SVG}title").text == HOSTILE
    paths = {path.get("class"): path.get("d") for path in root.iter(f"{SVG}path")}
    points = {k: places(d) for k, d in paths.items() if "points" in k}
    assert {k: len(v) for k, v in points.items()} == {
        "points darker": int((p == 0).sum()), "points brighter": int((p == 1).sum())
    }  # fmt: skip
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(0 < u < width and 0 < v < height for part in points.values() for u, v in part)
    # One step of time moves a point to the right, one row down, one column to the right and up.
    ends = np.array([[0.0, 0, 0], [0.5, 0, 0], [0.0, 10, 0], [0.0, 0, 10]])
    one = draw_cloud(ends[:, 0], ends[:, 2].astype(int), ends[:, 1].astype(int), np.ones(4, int), sensor=(40, 20),
                     ticks=[], title="", time="")  # fmt: skip
    d = next(p.get("d") for p in ElementTree.fromstring(one).iter(f"{SVG}path") if "brighter" in p.get("class"))
    (u0, v0), (u1, v1), (u2, v2), (u3, v3) = places(d)
    assert (u1 > u0, v1) == (True, v0)
    assert (u2, v2 > v0) == (u0, True)
    assert (u3 > u0, v3 < v0) == (True, True)


def test_rows_of_frames_are_within_their_picture():
    pictures = [(f"<{n}>", "AAAA") for n in range(9)]
    for aspect in (0.5, 1.0, 2.0):
        root = ElementTree.fromstring(draw_frames([("a & b", pictures), ("", pictures[:2])], aspect, "x"))
        images = list(root.iter(f"{SVG}image"))
        assert len(images) == 11
        for image in images:
            left, top, width, height = (float(image.get(key)) for key in ("x", "y", "width", "height"))
            assert left + width <= float(root.get("width"))
            assert top + height <= float(root.get("height"))
            assert height / width == pytest.approx(aspect, rel=0.01)


def test_the_page_needs_nothing_else_and_does_not_grow_with_the_recording(tmp_path):
    sizes = []
    for count in (40_000, 400_000):
        rng = np.random.default_rng(0)
        t = np.sort(rng.integers(0, 10**8, count))
        x, y, p = (rng.integers(0, most, count) for most in (400, 300, 2))
        write_recording(Events(t, x, y, p, (400, 300)), HOSTILE, tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert "<script>alert" not in text
        assert text.count("h0M") <= MOST_POINTS
        sizes.append(len(text))
    page = Page(text)
    assert page.headings == ["Recording", "Frames", "Events over time", "Rates"]
    assert (page.fetched, len(page.specs)) == ([], 1)
    assert sizes[1] < 1.4 * sizes[0] < 3_000_000


@pytest.mark.parametrize("count", [1, 2, 30])
def test_short_recordings_have_a_page_too(count):
    assert len(recording_sections(Events(*np.array(some_events(30)).T, SENSOR)[:count])) == 4


def test_rows_that_count_from_below_are_turned_in_pictures_alone(tmp_path):
    """jAER's; the arrays, and what is said of a pixel, stay as the file has them."""
    corner = [(100 * n, 2, 1, 1) for n in range(40)]  # near row 0
    path = tmp_path / "x.aedat"
    path.write_bytes(event_files.aedat2_dvs128(corner))
    events = iso.events.read(path)
    assert events.from_below
    assert events[3:].from_below
    assert events.on((128, 128)).from_below
    piece, *_ = iso.events.read_pieces(path)
    assert piece.from_below
    assert set(events.y) == {1}
    assert "x=2, y=1 has most" in in_words(summarise(events))[1]
    turned = Events(events.t, events.x, 126 - np.zeros(40, np.int64), events.p, (128, 128))
    drawn, expected = recording_sections(events), recording_sections(turned)
    assert [section.pictures for section in drawn] == [section.pictures for section in expected]
    assert drawn[1].html == expected[1].html
    path.write_bytes(event_files.aedat31(corner))
    assert not iso.events.read(path).from_below


def test_rates_add_up_to_the_events():
    chart = recording_sections(FEW)[3].charts[0].spec
    points = chart["data"]["values"]
    width_s = 1001 / 200 / 1e6
    for name, count in (("darker", 2), ("brighter", 3)):
        assert sum(p["value"] for p in points if p["series"] == name) * width_s == pytest.approx(count, rel=1e-4)


def test_show_says_numbers_and_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(event_files.evt3(some_events(200)))
    call("show", "a.bin")
    said = capsys.readouterr().out.splitlines()
    summary = summarise(iso.events.read("a.bin"))
    assert said == [*in_words(summary), "page: a.bin.html"]
    assert Page((tmp_path / "a.bin.html").read_text()).headings[0] == "Recording"
    call("show", "a.bin", "--json", "--out", "other.html")
    assert json.loads(capsys.readouterr().out) == {"file": "a.bin", **json.loads(json.dumps(summary.as_dict()))}
    assert (tmp_path / "other.html").is_file()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", ["--format", "bits40"], "x holds no events, so there is nothing to look at"),
        (b"nothing", [], "x is in no known format of events"),
        (event_files.bits40(some_events(9)), ["--sensor", "9"], "--sensor is WIDTHxHEIGHT in pixels, such as 34x34"),
        (
            event_files.bits40(some_events(9)),
            ["--sensor", "9x9"],
            "event 0 (at byte 0) has x = 63, and the",
        ),
        (event_files.text([(9, 1, 1, 1), (3, 1, 1, 1)]), [], "is 6 us before the one in front of it; sort=True"),
        (event_files.bits40(some_events(9)), ["--out", "no/page.html"], "cannot write no/page.html: No such file"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(tmp_path, monkeypatch, capsys, content, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(content)
    call("show", "x", *options, expect=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_first_layers_of_a_recording_are_pictures_of_what_fired():
    torch.manual_seed(0)
    model = enliven(iso.create_model("ms_resnet8", in_channels=2, T=9, width=4)).eval()
    counts = torch.poisson(torch.full((9, 1, 2, 12, 16), 2.0)).int()
    outputs = {}
    neurons = [(name, m) for name, m in model.named_modules() if isinstance(m, iso.Neuron)]
    handles = [m.register_forward_hook(lambda _, __, out, name=name: outputs.setdefault(name, []).append(out[0]))
               for name, m in neurons]  # fmt: skip
    found = picture_recording(model, counts, counts.float())
    [handle.remove() for handle in handles]
    assert (found["T"], found["sensor"], found["steps"]) == (9, [16, 12], [1, 2, 4, 5, 6, 8, 9])
    assert [layer["name"] for layer in found["layers"]] == [name for name, _ in neurons[:3]]
    assert len(found["points"]) == min(4000, int((counts > 0).sum()))
    assert all(counts[step, 0, p, y, x] for step, p, y, x in found["points"])
    for layer in found["layers"]:
        spikes = torch.cat(outputs[layer["name"]])[:, 0].float().mean(1)
        assert layer["most"] == pytest.approx(float(spikes.max()))
        assert layer["most"] > 0
        for step, picture in zip(found["steps"], layer["pictures"], strict=True):
            opacity = 1 - np.asarray(decoded(picture))[..., 0] / 255
            assert np.abs(opacity - spikes[step - 1].numpy() / layer["most"]).max() <= 0.5 / 255 + 1e-6
    strong = strong_count(counts.numpy())
    assert found["frames"][1] == png(coloured(counts[1, 0].numpy(), strong))


def test_a_report_shows_the_recording_and_fetches_nothing_from_it(tmp_path):
    run = make_run(tmp_path / "run")
    assert recording(run) is None
    measure(run)
    section = recording(run)
    assert list(section.pictures) == ["layers", "cloud"]
    assert ElementTree.fromstring(section.pictures["layers"]).find(f"{SVG}title") is not None
    assert HOSTILE not in section.html + section.pictures["layers"]
    assert Page(section.html).fetched == []
    shown = json.loads(run.analysis("recording").read_text())
    for odd in ("AAAA, http://example.org/x.png 2x", '"onload="', ""):
        with pytest.raises(ValueError, match="no base64"):
            film_html({**shown["film"], "whole": odd}, "")


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_browser_draws_the_page(tmp_path, mode):
    write_recording(Events(*np.array(some_events(300)).T, SENSOR), "x", tmp_path / "page.html")
    dom, console = render(
        tmp_path / "page.html", *([] if mode == "light" else ["--blink-settings=preferredColorScheme=0"])
    )
    assert console == []
    assert "could not be drawn" not in dom.split("<footer>")[0]
    assert dom.count('class="marks"') == 1
