"""Where files that are not Python lie: beside the packages in a checkout, inside them once installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def asset_folder(name: str) -> Path:
    """`templates` or `static`: inside the package where it was installed from a wheel, else beside it."""
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def demo_recording() -> Path:
    """The example's spans: one OTLP ExportTraceServiceRequest, gzipped."""
    return _PACKAGE / "demo" / "recording.otlp.gz"
