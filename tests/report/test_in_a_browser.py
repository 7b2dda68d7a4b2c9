"""The page as Chromium shows it: on a phone and on a desk, light and dark, and on paper."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from pages import analyse, full_run
from pages.browser import DARK, LIGHT, chromium, measured, needs_chromium

from ecm_cluster.report import page

pytestmark = [needs_chromium, pytest.mark.slow]
LONG = "a_name_of_a_class_that_is_far_too_long_for_any_phone_and_has_no_place_to_break_it_in_two"
PHONE, DESK = 400, 1280


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of one run and one of three, whose names and values are long."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [full_run(folder / f"{LONG}-{number}", classes=60, seed=number, options={LONG: LONG, f"x.{number}": LONG})
            for number in range(3)]
    for run in runs:
        analyse(run, confusions=[{"truth": LONG, "predicted": LONG, "count": 10**9}])
        for work in run.evaluations():
            work.metrics_file().write_text(work.metrics_file().read_text().replace("class_3", LONG))
    made = {"one": [runs[0]], "two": runs[:2], "three": runs}
    for name, several in made.items():
        (folder / f"{name}.html").write_text(page.make(several))
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("name", ["one", "two", "three"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_wider_than_the_window(pages, name, width):
    window, taken, _, wide = measured(pages[name], width)
    assert (window, taken, wide) == (width, width, "")


def test_the_page_follows_the_scheme_of_the_system(pages):
    light, dark = (measured(pages["one"], DESK, scheme)[2] for scheme in (LIGHT, DARK))
    assert (light, dark) == ("rgb(252, 252, 250)", "rgb(20, 23, 26)")


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_the_console_stays_empty(pages, name):
    _, console = chromium(pages[name], "--dump-dom")
    assert console == ""


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_curves_and_dots_are_drawn_in_their_colors(pages, width, scheme):
    """Not all of them under each other: the chart of the loss has its line from left to right."""
    picture = pages["one"].with_name(f"{width}-{scheme}.png")
    chromium(pages["one"], f"--screenshot={picture}", width=width, height=6000, scheme=scheme)
    shown = cv2.imread(str(picture))[..., ::-1].astype(int)
    blue, orange = ((31, 95, 168), (196, 80, 11)) if scheme == LIGHT else ((121, 177, 239), (245, 150, 90))
    columns = np.flatnonzero((abs(shown - blue).max(axis=2) < 24)[:1600].any(axis=0))
    assert columns.min() < 0.2 * width and columns.max() > 0.85 * width
    assert (abs(shown - orange).max(axis=2) < 24).sum() > 100


def test_it_prints_on_light_pages_also_from_a_dark_screen(pages):
    paper = pages["one"].with_suffix(".pdf")
    chromium(pages["one"], f"--print-to-pdf={paper}", "--no-pdf-header-footer", scheme=DARK)
    data = paper.read_bytes()
    assert data.startswith(b"%PDF-") and 3 <= data.count(b"/Type /Page\n") <= 30


def test_no_request_leaves_a_page_of_a_hostile_run(tmp_path):
    """Text that would load something if it were not text; and the policy holds even where something got in."""
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    bait = f"\"'><img src={address}/img><script src={address}/js></script><style>@import url({address}/css)</style>"
    run = full_run(tmp_path / "run", classes=6, scored=1, options={bait: bait})
    analyse(run, confusions=[{"truth": bait, "predicted": bait, "count": 1}])
    target = tmp_path / "page.html"
    target.write_text(page.make([run]))
    try:
        dom, console = chromium(target, "--dump-dom")
        assert (asked, console) == ([], "") and dom.count("/img") >= 3
        target.write_text(target.read_text().replace("<main>", f"<main><img src={address}/in><script>document.title='x'"
                                                     f"</script><link rel=stylesheet href={address}/link>"))
        dom, console = chromium(target, "--dump-dom")
        assert asked == [] and console.count("Content Security Policy") >= 3 and "<title>x</title>" not in dom
        chromium(target.with_name("open.html") if target.with_name("open.html").write_text(f"<img src={address}/open>")
                 else target)
        assert asked == ["/open"], "the listener hears nothing: the test shows nothing"
    finally:
        server.shutdown()
