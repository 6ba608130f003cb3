"""What a detector is: one file that finds one problem in single requests, judges all of them, and says what to change.

Dropping a module into `analysis/detectors` registers it. The class docstring is its page and its first test: a summary
sentence and the sections below, of which *Example* must fire and *Fixed* must not.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar

import analysis.detectors
from analysis.node import Node
from analysis.reports import Fix
from analysis.retime import Edit
from analysis.sample import Sample, SampledRequest

SECTIONS = ("What it finds", "Why it matters", "Example", "How to fix", "Fixed")
HIGH, MEDIUM, LOW = "high", "medium", "low"
ABOUT, AT_LEAST, AT_MOST = "about", "at least", "at most"


@dataclass(frozen=True, eq=False)
class Occurrence:
    """One place in one request where the problem shows."""

    operation: str
    """Stable words for what is at fault: no ids, no times."""
    offenders: tuple[Node, ...]
    edit: Edit
    """The request with the fix applied."""
    cost_ns: int
    """Time that the problem takes here, before anything is re-timed."""
    note: str
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Group:
    """All occurrences of one operation in the sampled requests of one endpoint, or of a service's endpoints."""

    service: str
    endpoints: tuple[str, ...]
    """The endpoints in which it was found, most time first; one unless the detector looks across endpoints."""
    operation: str
    samples: tuple[Sample, ...]
    """Their samples, in the same order."""
    found: tuple[tuple[SampledRequest, Occurrence], ...]

    @property
    def where(self) -> str:
        """Words for the place: the endpoint, or the service with the number of its endpoints."""
        more = len(self.endpoints) - 1
        return f"{self.service} {self.endpoints[0]}" + (f" and {more} more of its endpoints" if more else "")

    @property
    def requests(self) -> int:
        """Sampled requests that show it."""
        return len({id(request) for request, _ in self.found})

    @property
    def share(self) -> float:
        """Share of the endpoints' requests that show it, by the weights of the samples."""
        weights = {id(request): request.weight for request, _ in self.found}
        total = sum(request.weight for sample in self.samples for request in sample.requests)
        return sum(weights.values()) / total if total else 0.0

    def facts(self, name: str) -> list[float]:
        """One fact of every occurrence, ascending."""
        return sorted(occurrence.facts[name] for _, occurrence in self.found)

    @property
    def scopes(self) -> tuple[str, ...]:
        """Instrumentation scopes of the offenders, most frequent first."""
        seen: dict[str, int] = {}
        for _, occurrence in self.found:
            for node in occurrence.offenders:
                seen[node.span.scope_name] = seen.get(node.span.scope_name, 0) + 1
        return tuple(sorted(seen, key=lambda scope: (-seen[scope], scope)))


@dataclass(frozen=True)
class Verdict:
    """What a detector says of a group that it stands by."""

    title: str
    message: str
    confidence: str
    confidence_reason: str
    assumption: str
    fix: Fix
    bound: str = ABOUT
    """How the gain relates to what the fix really brings: `ABOUT`, `AT_LEAST` or `AT_MOST`."""


class Detector(ABC):
    """Base of all detectors; a subclass without its documentation cannot be created (TypeError)."""

    Settings: ClassVar[type]
    name: ClassVar[str]
    summary: ClassVar[str]
    sections: ClassVar[Mapping[str, str]]
    across_endpoints: ClassVar[bool] = False
    """True where what is at fault belongs to a service, such as a pool, and not to one of its endpoints."""

    def __init__(self, settings: object | None = None) -> None:
        self.settings: Any = settings if settings is not None else self.Settings()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()
        cls.summary, cls.sections = _documentation(cls)
        settings = cls.__dict__.get("Settings")
        if settings is None or not is_dataclass(settings):
            raise TypeError(f"{cls.__name__} needs a dataclass named Settings")
        for setting in fields(settings):
            if not setting.metadata.get("help"):
                raise TypeError(f"{cls.__name__}.Settings.{setting.name} needs a help text")

    @abstractmethod
    def occurrences(self, request: Node) -> Iterator[Occurrence]:
        """Places in one request, looked for in what its own service did (`request.own_nodes()`); pure, no state."""

    @abstractmethod
    def verdict(self, group: Group) -> Verdict | None:
        """What to say of all occurrences together; None where they are too few or too weak to say anything."""


def _documentation(cls: type) -> tuple[str, Mapping[str, str]]:
    document = inspect.cleandoc(cls.__doc__ or "")
    summary, *rest = re.split(r"^## (.+)$", document, flags=re.MULTILINE)
    titles, texts = rest[0::2], [textwrap.dedent(text.strip("\n")) for text in rest[1::2]]
    sections = dict(zip(titles, texts, strict=True))
    summary = " ".join(summary.split())
    if not summary.endswith("."):
        raise TypeError(f"{cls.__name__} needs a docstring that begins with one sentence")
    missing = [title for title in SECTIONS if not sections.get(title, "").strip()]
    if missing:
        raise TypeError(f"{cls.__name__} lacks the docstring sections {', '.join(missing)}")
    return summary, sections


@lru_cache(maxsize=1)
def detectors() -> tuple[Detector, ...]:
    """One instance of every detector in the folder, by name."""
    found: list[Detector] = []
    for module in pkgutil.iter_modules(analysis.detectors.__path__, "analysis.detectors."):
        loaded = importlib.import_module(module.name)
        found.extend(
            value()
            for value in vars(loaded).values()
            if isinstance(value, type) and issubclass(value, Detector) and value.__module__ == module.name
        )
    return tuple(sorted(found, key=lambda detector: detector.name))


def detector_named(name: str) -> Detector | None:
    """The detector of that name, None where there is none."""
    return next((detector for detector in detectors() if detector.name == name), None)
