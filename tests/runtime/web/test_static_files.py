"""What the page's files promise without a browser: few lines, nothing from elsewhere, no HTML from texts, contrast."""

import colorsys
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "runtime" / "web" / "static"
FILES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
READABLE = 4.5  # WCAG 2.2, AA: of a text's luminance to its background's
PAIRS = [
    *[(text, back) for text in ("text", "muted", "good", "bad", "accent") for back in ("card", "back")],
    ("text", "bar"),
    ("on-accent", "accent"),
]


def luminance(color: tuple[float, float, float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def scheme(name: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", FILES["page.css"], re.DOTALL)
    return dict(re.findall(r"--([\w-]+): ([^;]+);", dark if name == "dark" else light))


def color(text: str) -> tuple[float, float, float]:
    digits = text.removeprefix("#") if len(text) == 7 else "".join(2 * digit for digit in text.removeprefix("#"))
    red, green, blue = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    return red, green, blue


def test_style_and_scripts_are_few_lines_that_can_be_read() -> None:
    lines = [line for name, text in FILES.items() if name.endswith((".css", ".js")) for line in text.splitlines()]
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 120


def test_nothing_comes_from_elsewhere_and_no_text_becomes_html() -> None:
    for name, text in FILES.items():
        addresses = set(re.findall(r"https?://[^\"' >]+", text)) - {"http://www.w3.org/2000/svg"}  # a name, not a place
        assert addresses == set(), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", text), name
        if name.endswith(".html"):  # what the policy would refuse
            assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", text), name


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_text_has_enough_contrast(name: str) -> None:
    values = scheme(name)
    for text, back in PAIRS:
        assert contrast(color(values[text]), color(values[back])) >= READABLE, f"{text} on {back}"
    saturation, lightness = (float(value.rstrip("%")) / 100 for value in values["tint"].split())
    for hue in range(360):  # of a timeline's parts
        tint = colorsys.hls_to_rgb(hue / 360, lightness, saturation)
        assert contrast(color(values["text"]), tint) >= READABLE, f"hue {hue}"
