"""Which keys a JSON text begins with, found without parsing it: the text may be cut off, broken or hostile."""

from __future__ import annotations

import re
from dataclasses import dataclass

LIST = "[]"
"""The step of a path from a list to its elements."""

_MAX_DEPTH = 5
_MAX_PATHS = 2_000
_TOKEN = re.compile(
    r"""[\s,]*+(?: (?P<key>"[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+: | "[^"\\]*+(?:\\.[^"\\]*+)*+"
    | (?P<open>[{\[]) | (?P<close>[}\]]) | [^\s,:"{}\[\]]++ )""",
    re.VERBOSE | re.DOTALL,
)

Path = tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """The outline of the first JSON value of a text."""

    kind: str
    """`{`, `[`, or empty: neither an object nor a list."""
    paths: tuple[Path, ...]
    """Every key with the keys above it, in order of first appearance, down to depth 5."""
    end: int
    """Where the value ends in the text; -1 where it is cut off."""

    def keys(self, *above: str) -> frozenset[str]:
        """The keys right below a path, those of all elements of a list together."""
        return frozenset(path[-1] for path in self.paths if path[:-1] == above)


def outline(text: str) -> Outline:
    """The outline of a text; one pass, and bounded whatever the text holds."""
    found: dict[Path, None] = {}
    here: list[str] = []
    """One step for each open bracket: a list's is `[]`, an object's is the key that was read last."""
    position = 0
    kind = ""
    while match := _TOKEN.match(text, position):
        position = match.end()
        if opened := match["open"]:
            kind = kind or opened
            here.append(LIST if opened == "[" else "")
        elif match["close"]:
            if not here:
                break
            here.pop()
            if not here:
                return Outline(kind, tuple(found), position)
        elif not here:
            break
        elif key := match["key"]:
            here[-1] = key[1:-1][:100]
            if len(here) <= _MAX_DEPTH and len(found) < _MAX_PATHS:
                found[tuple(here)] = None
    return Outline(kind, tuple(found), -1)
