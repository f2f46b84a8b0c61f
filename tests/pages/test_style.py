"""The style sheet's colours can be read (WCAG 2.2, 1.4.3 and 1.4.11), and it loads nothing."""

import re

import pytest

from powauth.pages.shipped import SHIPPED, STYLE

SOURCE = (SHIPPED / STYLE).read_text()
BLOCKS = re.findall(r":root \{(.*?)\}", SOURCE, re.DOTALL)
PALETTES = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in BLOCKS]
TEXT = [
    ("ink", "paper"),
    ("ink", "surface"),
    ("ink", "calm"),
    ("ink", "alarm-wash"),
    ("soft", "paper"),
    ("soft", "surface"),
    ("accent", "paper"),
    ("accent-over", "paper"),
    ("on-accent", "accent"),
    ("on-accent", "accent-over"),
    ("alarm", "surface"),
    ("alarm", "paper"),
    ("alarm", "alarm-wash"),
]
EDGES = [("edge", "surface"), ("edge", "paper"), ("accent", "surface"), ("accent", "alarm-wash"), ("alarm", "surface")]


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("palette", PALETTES, ids=["light", "dark"])
def test_text_and_edges_stand_out(palette: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for on, below in TEXT:
        assert contrast(palette[on], palette[below]) >= 4.5, (on, below)
    for on, below in EDGES:
        assert contrast(palette[on], palette[below]) >= 3, (on, below)


def test_there_is_a_light_and_a_dark_palette_of_the_same_colours() -> None:
    light, dark = PALETTES
    assert light.keys() == dark.keys()
    assert "color-scheme: light dark" in SOURCE
    assert SOURCE.count("@media (prefers-color-scheme: dark)") == 1


def test_it_loads_nothing_and_all_its_colours_are_in_the_palettes() -> None:
    assert "url(" not in SOURCE
    assert "@import" not in SOURCE
    rules = re.sub(r":root \{.*?\}", "", SOURCE, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules)
    assert set(re.findall(r"var\(--([a-z-]+)\)", rules)) == {*PALETTES[0], "radius"}


def test_the_focus_is_seen() -> None:
    assert ":focus-visible" in SOURCE
    assert "outline: none" not in SOURCE
    assert "outline: 0" not in SOURCE
