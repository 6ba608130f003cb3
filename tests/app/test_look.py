"""The palette of the stylesheet holds the contrast that people need to read it."""

from __future__ import annotations

import re

import pytest

from analysis.ledger import Category
from app.resources import asset_folder

CSS = (asset_folder("static") / "app.css").read_text()
PAIRS = dict(re.findall(r"--([a-z_]+): light-dark\((#[0-9a-f]{6}, #[0-9a-f]{6})\)", CSS))
THEMES = ("light", "dark")


def colour(name: str, theme: str) -> str:
    return str(PAIRS[name].split(", ")[THEMES.index(theme)])


def luminance(code: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(code[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", ["surface", "raised"])
def test_contrast(theme: str, ground: str) -> None:
    behind = colour(ground, theme)
    for name in ("text", "quiet", "accent", "bad"):
        assert contrast(colour(name, theme), behind) >= 4.5, name
    for category in Category:
        assert contrast(colour(category.value, theme), behind) >= 3, category


def test_every_category_has_a_fill() -> None:
    for category in Category:
        assert re.search(rf"\.f-{category.value}\b", CSS), category
