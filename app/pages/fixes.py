"""Findings, one finding, and what a detector looks for."""

from __future__ import annotations

import re
from dataclasses import fields

from starlette.responses import Response

from analysis.detector import SECTIONS, detector_named, detectors
from analysis.errors import NotFound
from analysis.fixes import fixes
from app.pages.context import Page

Paragraph = tuple[str, str | list[tuple[str, bool]]]


async def fixes_page(page: Page) -> Response:
    report = await page.run(fixes)
    return await page.render("fixes.html", "fixes", report=report, detectors=detectors())


async def fix_page(page: Page) -> Response:
    fingerprint = page.request.path_params["fingerprint"]
    report = await page.run(fixes)
    finding = next((found for found in report.findings if found.fingerprint == fingerprint), None)
    if finding is None:
        raise NotFound(f"no finding {fingerprint[:64]} in this window: it may have been fixed")
    return await page.render("fix.html", "fixes", finding=finding)


async def detector_page(page: Page) -> Response:
    name = page.request.path_params["name"]
    detector = detector_named(name)
    if detector is None:
        raise NotFound(f"no detector is called {name[:64]}")
    report = await page.run(fixes)
    settings = detector.settings
    return await page.render(
        "detector.html",
        "fixes",
        detector=detector,
        sections=[(title, paragraphs(detector.sections[title])) for title in SECTIONS],
        settings=[(field.name, getattr(settings, field.name), field.metadata["help"]) for field in fields(settings)],
        findings=[finding for finding in report.findings if finding.detector == name],
    )


def paragraphs(text: str) -> list[Paragraph]:
    """A docstring's section as code blocks (drawn traces, fenced code) and paragraphs of (piece, is code)."""
    blocks: list[Paragraph] = []
    for fenced, prose in re.findall(r"^```[^\n]*\n(.*?)^```$|((?:(?!^```).)+)", text, re.DOTALL | re.MULTILINE):
        if fenced:
            blocks.append(("code", fenced.rstrip()))
            continue
        for block in re.split(r"\n\s*\n", prose.strip("\n")):
            if re.search(r"\s\d[\d.]*\.\.\d", block) or all(line.startswith("    ") for line in block.splitlines()):
                blocks.append(("code", block.rstrip()))
            elif block.strip():
                blocks.append(("prose", _pieces(" ".join(block.split()))))
    return blocks


def _pieces(text: str) -> list[tuple[str, bool]]:
    return [(piece, index % 2 == 1) for index, piece in enumerate(text.split("`")) if piece]
