"""The style sheet's colours can be read (WCAG 2.2, 1.4.3 and 1.4.11), and it loads nothing."""

import re

import pytest

from powauth.pages.shipped import SHIPPED, STYLE

SOURCE = (SHIPPED / STYLE).read_text()
COLOURS = re.findall(r"--powauth-([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", SOURCE)
PALETTES = [{name: light for name, light, _ in COLOURS}, {name: dark for name, _, dark in COLOURS}]
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


def test_the_colours_follow_the_page_and_an_app_sets_its_own_in_any_order() -> None:
    """A page of an app that is always light stays light; `:where` has no specificity."""
    assert SOURCE.count(":where(:root) {") == 1
    assert SOURCE.count("{:root") == SOURCE.count("\n:root") == 0
    assert "prefers-color-scheme" not in SOURCE
    assert SOURCE.count("color-scheme: light dark") == 1


def test_no_rule_touches_anything_outside_the_pages() -> None:
    rules = re.sub(r"/\*.*?\*/|@media[^{]*\{", "", SOURCE, flags=re.DOTALL)
    selectors = [part.strip() for group in re.findall(r"([^{}]+)\{", rules) for part in group.split(",\n")]
    assert len(selectors) > 40
    assert not [each for each in selectors if not re.match(r"(:where\()?(\.powauth|:root)\b", each)]


def test_it_loads_nothing_and_all_its_colours_are_in_the_palettes() -> None:
    assert "url(" not in SOURCE
    assert "@import" not in SOURCE
    rules = re.sub(r":where\(:root\) \{.*?\}", "", SOURCE, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules)
    assert set(re.findall(r"var\(--powauth-([a-z-]+)\)", rules)) == {*PALETTES[0], "radius"}


def test_the_focus_is_seen() -> None:
    assert ":focus-visible" in SOURCE
    assert "outline: none" not in SOURCE
    assert "outline: 0" not in SOURCE
