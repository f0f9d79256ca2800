"""The live page in Debian's chromium, beside a real run of hybrid-infer on two real streams."""

import json
import os
import re
import shlex
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live.run import LiveRun, processes_of
from support.live.web_client import TOKEN, Served
from support.models.bundles import encode, make_bundle, sample_image
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.preprocess import decode_image
from hybrid_edge.runtime.sources.names import short_names
from hybrid_edge.runtime.sources.regions import parse_regions
from hybrid_edge.runtime.spec import ModelSpec

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'hybrid-edge[dev]'")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-quic"
)
LABELS = tuple(f"<b class=evil>{digit}</b>" for digit in range(10))
SPEC = ModelSpec(image_size=28, timesteps=28, backbone="digits", rnn_layers=1, class_labels=LABELS)
TABS = ("Live", "Bundle", "Latency", "Classify")


class Device:
    """A run of hybrid-infer with ``--web`` on two streams, of the second of which it watches a region."""

    def __init__(self, bundle: Path, streams: list[MjpegStream]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.streams = streams
        urls = [stream.url for stream in streams]
        self.ids = [short_names(urls)[url] for url in urls]
        region = f"--region=gate@{self.ids[-1]}=10%,20%,30%,40%"
        arguments = [*urls, "--bundle", bundle, "--headless", f"--web=127.0.0.1:{self.port}", region]
        self.run = LiveRun(*arguments, environment={"DEVICE": self.url})
        self.run.until(lambda: len({line["source"] for line in self.run.results}) == len(urls), what="results of each")

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=10) as answer:  # noqa: S310  # http
            return json.load(answer)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    bundle = make_bundle(tmp_path_factory.mktemp("page") / "bundle", SPEC)
    with MjpegStream(fps=10) as first, MjpegStream(fps=10) as second:
        opened = Device(bundle, [first, second])
        with opened.run:
            yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield opened
        opened.close()


class Visit:
    """A page, what it asked for, and what went wrong in it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.url = url
        self.page = browser.new_page(viewport={"width": 1280, "height": 850})
        self.page.set_default_timeout(20000)
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def check(self) -> None:
        """Nothing was asked of anybody else, and nothing went wrong."""
        assert [asked for asked in self.asked if not asked.startswith((f"{self.url}/", f"blob:{self.url}/"))] == []
        assert self.errors == []


@pytest.fixture(scope="module")
def visit(browser: Any, device: Device) -> Visit:
    return Visit(browser, device.url)


@pytest.fixture
def page(visit: Visit) -> Iterator[Any]:
    visit.page.goto(visit.url)
    yield visit.page
    visit.check()


def camera(page: Any, stream: MjpegStream) -> Any:
    return page.locator(".camera").filter(has_text=stream.url)


def shows(page: Any, picture: Any) -> None:
    """Wait until an element shows a picture of the stream."""
    page.wait_for_function("image => image.naturalWidth === 320", arg=picture.element_handle())


def test_a_camera_is_shown_with_its_picture_answer_and_counts(page: Any, device: Device) -> None:
    card = camera(page, device.streams[0])
    shows(page, card.locator("img"))
    assert card.locator(".state").text_content() == "flowing"
    card.locator(".answer strong", has_text=re.compile("evil")).wait_for()
    assert card.locator(".bars li").count() == 5
    shown = dict(zip(card.locator("dt").all_text_contents(), card.locator("dd").all_text_contents(), strict=True))
    assert shown["age"].endswith(" ms")
    assert float(shown["frames"].removesuffix(" /s")) >= 0
    assert {"dropped", "damaged", "reconnects"} <= shown.keys()
    playwright.expect(card.locator(".strip")).to_have_attribute(
        "aria-label", re.compile("newest first: <b class=evil>")
    )


def test_a_region_has_its_own_answer_and_is_drawn_in_its_place(page: Any, device: Device) -> None:
    card = camera(page, device.streams[1])
    shows(page, card.locator("img"))
    assert card.locator("h3").text_content() == "gate"
    box = card.locator(".boxes span")
    box.filter(has_text="gate: <b class=evil>").wait_for()
    # at once, since boxes are made anew with each result
    boxes = "[...card.querySelectorAll('.boxes span, .picture')]"
    measure = f"card => {boxes}.map((one) => one.getBoundingClientRect().toJSON())"
    outer, inner = page.evaluate(measure, card.element_handle())
    assert (inner["x"] - outer["x"]) / outer["width"] == pytest.approx(0.1, abs=0.01)
    assert inner["height"] / outer["height"] == pytest.approx(0.4, abs=0.01)


def test_labels_and_file_names_with_html_stay_text(page: Any, device: Device) -> None:
    page.get_by_role("tab", name="Classify").click()
    name = "<img src=x onerror=document.title='taken'>.png"
    page.set_input_files("[type=file]", {"name": name, "mimeType": "image/png", "buffer": encode(sample_image(3))})
    page.locator("#classified", has_text="32 × 24 pixels").wait_for()
    assert name in page.locator("#classified").text_content()
    assert page.locator(".answered strong").text_content() in LABELS
    page.get_by_role("tab", name="Bundle").click()
    page.locator("#bundle dd", has_text=LABELS[3]).wait_for()
    assert page.locator(".evil").count() == 0
    assert page.title() == "hybrid-edge"


def test_the_tabs_are_reached_by_arrow_keys_and_show_the_bundle_and_the_latency(page: Any) -> None:
    for _ in range(2):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.role") == "tab":
            break
    for key, name in (("ArrowRight", "Bundle"), ("End", "Classify"), ("ArrowRight", "Live"), ("ArrowLeft", "Classify")):
        page.keyboard.press(key)
        assert page.locator("[aria-selected=true]").all_text_contents() == [name]
        assert page.evaluate("document.activeElement.textContent") == name
        assert page.locator("[role=tabpanel]:visible").get_attribute("aria-labelledby") == f"tab-{name.lower()}"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.locator("#bundle strong", has_text="fp32-cpu, running").wait_for()
    row = page.locator("#bundle tbody tr").text_content()
    assert "top-1 agreement" not in row  # of the small bundle's record, which has no limit for it
    assert "(limit 0.0001)" in row
    assert row.endswith("passed")
    assert page.locator("#bundle .bad").count() == 0
    facts = page.locator("#bundle dl").all_text_contents()
    assert "image size28" in facts[0]
    assert "examples8" in facts[1]
    assert "hybrid edge0.1.0" in facts[2]
    page.keyboard.press("ArrowRight")
    page.locator("#latency tbody tr").nth(2).wait_for()
    assert re.fullmatch(r"age[\d.]+ ms[\d.]+ ms", page.locator("#latency tbody tr").nth(2).text_content())
    assert page.locator("#latency .histogram").first.locator("span").count() > 10
    assert len(page.locator("#p99").get_attribute("points").split()) >= 2
    assert page.locator("#latency .strip").get_attribute("aria-label").startswith("preprocessing ")


def test_a_picture_that_is_dropped_is_classified_and_one_that_is_none_is_refused(
    visit: Visit, page: Any, tmp_path: Path
) -> None:
    page.get_by_role("tab", name="Classify").click()
    dropped = tmp_path / "dropped.png"
    dropped.write_bytes(encode(sample_image(3)))
    field = page.locator("[type=file]").bounding_box()
    place = {"x": field["x"] + 200, "y": field["y"] + 50}
    data = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
    page.locator("#classified", has_text="dropped.png: 32 × 24 pixels").wait_for()
    assert page.locator(".answered li").count() == 5
    page.wait_for_function("document.querySelector('.answered img').naturalWidth === 32")
    none = tmp_path / "none.png"
    none.write_text("no picture")
    page.locator("[type=file]").set_input_files(none)
    page.locator("#classified", has_text="none.png: the picture: not an image").wait_for()
    assert not page.locator(".answered").is_visible()
    (said,) = visit.errors
    assert "415" in said
    visit.errors.clear()


def test_pause_freezes_the_view_and_ends_the_streams(page: Any, device: Device) -> None:
    card = camera(page, device.streams[0])
    shows(page, card.locator("img"))
    assert device.ask("status")["viewers"] == 2
    page.get_by_role("button", name="Pause").click()
    device.run.until(lambda: device.ask("status")["viewers"] == 0, what="the end of the streams")
    frozen = page.locator("#cameras").inner_html()
    assert page.evaluate("canvas => canvas.width", card.locator("canvas").element_handle()) == 320
    device.run.frames(10)
    assert page.locator("#cameras").inner_html() == frozen
    page.get_by_role("button", name="Pause").click()
    shows(page, card.locator("img"))
    device.run.until(lambda: device.ask("status")["viewers"] == 2, what="the streams again")


def test_another_tab_ends_the_streams(page: Any, device: Device) -> None:
    shows(page, camera(page, device.streams[0]).locator("img"))
    page.get_by_role("tab", name="Latency").click()
    device.run.until(lambda: device.ask("status")["viewers"] == 0, what="the end of the streams")


def test_a_snapshot_is_downloaded_as_a_jpeg_of_the_whole_picture(page: Any, device: Device) -> None:
    with page.expect_download() as download:
        camera(page, device.streams[1]).get_by_role("link", name="Snapshot").click()
    data = download.value.path().read_bytes()
    assert download.value.suggested_filename.endswith(".jpg")
    assert data[:2] == b"\xff\xd8"
    assert decode_image(data, "the snapshot").shape == (240, 320, 3)


def test_a_region_drawn_on_the_large_picture_is_an_option_that_the_command_takes(page: Any, device: Device) -> None:
    card = camera(page, device.streams[0])
    shows(page, card.locator("img"))
    card.locator(".picture").click()
    assert card.get_by_role("button", name="Enlarge").get_attribute("aria-pressed") == "true"
    outer = card.locator(".picture").bounding_box()
    scale = 320 / outer["width"]
    left, top = outer["x"] + 40 / scale, outer["y"] + 30 / scale
    page.mouse.move(left + 100 / scale, top + 80 / scale)
    page.mouse.down()
    page.mouse.move(left, top, steps=3)
    page.mouse.up()
    card.get_by_label("name").fill("Bob's gate")
    option = card.get_by_label("option").input_value()
    flag, value = shlex.split(option)
    assert flag == "--region"
    (region,) = parse_regions([value])
    assert (region.name, region.source) == ("Bob's gate", device.ids[0])
    assert (region.left, region.top, region.width, region.height) == pytest.approx((40, 30, 100, 80), abs=1)
    key, _, listed = card.get_by_label("--config").input_value().partition(" = ")
    assert (key, json.loads(listed)) == ("region", [value])  # of TOML, that is JSON too
    assert card.locator(".boxes span").text_content() == "new"
    card.get_by_role("button", name="Enlarge").click()
    playwright.expect(page.locator(".large, .boxes span:text('new')")).to_have_count(0, timeout=20000)


def test_the_keyboard_alone_pauses_enlarges_and_types_a_region(page: Any, device: Device) -> None:
    shows(page, camera(page, device.streams[0]).locator("img"))

    def reach(name: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent").strip() == name:
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        raise AssertionError(f"{name} was not reached")

    reach("Pause")
    page.keyboard.press("Space")
    assert page.locator("#pause").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Space")
    reach("Enlarge")
    page.keyboard.press("Enter")
    page.locator(".large").wait_for()
    reach("New region")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("door")
    assert page.locator(".large").get_by_label("option").input_value().startswith("--region 'door@")


def test_a_stream_that_dies_is_told_in_words_and_comes_back(page: Any, device: Device) -> None:
    card = camera(page, device.streams[0])
    shows(page, card.locator("img"))
    device.streams[0].kill()
    card.locator(".state", has_text="lost").wait_for()
    page.locator("[role=status]", has_text=re.compile("Last fault, .*: lost: ")).wait_for()
    card.locator(".stopped", has_text=re.compile(r"No picture for \d+ s")).wait_for()
    card.locator(".answer", has_text="no answer").wait_for()
    page.reload()  # the last picture is shown to who comes now, too
    shows(page, card.locator("img"))
    device.streams[0].restart()
    card.locator(".state", has_text="flowing").wait_for()
    assert card.locator(".stopped").is_hidden()
    assert card.locator("dt:text('reconnects') + dd").text_content() != "0"
    card.locator(".strip .gap:not(:first-child)").first.wait_for()
    assert None in [change["label"] for change in device.ask("timeline")[device.ids[0]]]


def test_a_phone_shows_every_tab_without_scrolling_sideways_and_in_the_dark(page: Any, device: Device) -> None:
    page.set_viewport_size({"width": 375, "height": 700})
    page.emulate_media(color_scheme="dark")
    shows(page, camera(page, device.streams[0]).locator("img"))
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        page.locator(f"#{name.lower()}").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 375, name
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 22, 28)"
    page.set_viewport_size({"width": 1280, "height": 850})
    page.emulate_media(color_scheme="light")


def test_the_page_comes_back_by_itself_after_the_worker_was_killed(visit: Visit, page: Any, device: Device) -> None:
    card = camera(page, device.streams[0])
    shows(page, card.locator("img"))
    before = device.ask("status")["seconds"]
    worker = max(pid for pid in processes_of(f"DEVICE={device.url}") if pid != device.run.process.pid)
    os.kill(worker, signal.SIGKILL)
    page.locator("[role=alert]", has_text="Connection lost").wait_for()
    page.locator("[role=alert]").wait_for(state="hidden")
    device.run.until(lambda: device.ask("status")["viewers"] == 2, what="the streams again")
    shows(page, card.locator("img"))
    assert device.ask("status")["seconds"] < before + 60
    visit.errors = [error for error in visit.errors if "net::ERR" not in error]


def test_a_token_is_asked_for_and_logging_out_ends_the_session(browser: Any, guarded: Served) -> None:
    visit = Visit(browser, guarded.page.url.rstrip("/"))
    page = visit.page
    page.goto(visit.url)
    page.get_by_label("Token of this device").fill("a wrong token of this length")
    page.keyboard.press("Enter")
    page.locator("#wrong:visible").wait_for()
    page.get_by_label("Token of this device").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_function("image => image.naturalWidth > 0", arg=page.locator(".camera img").element_handle())
    assert TOKEN not in page.url + page.evaluate("document.cookie")
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token of this device").wait_for()
    page.goto(visit.url)
    assert page.url.endswith("/login")
    page.goto(f"{visit.url}/login#wait")
    page.get_by_text("Wait a minute").wait_for()
    assert not page.locator("#wrong").is_visible()
    page.close()
    visit.check()
