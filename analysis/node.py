"""A span in the tree of its trace: what critical path, ledger, detectors and waterfall share."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.span import Span


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree; times are corrected for skew, and clipped to the parent unless it is an entry span.

    Entry spans keep their own duration, because it is a request's; `bounds` says what of it lies inside the caller's.
    """

    span: Span
    start_ns: int
    end_ns: int
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    """In start order; those that the request waited for and those that it did not."""
    awaited: bool = True
    """False for work that goes on after its parent ended, asynchronous consumers and what instrumentation doubles."""
    driver_copy: bool = False
    """A driver's span of a query that SQLAlchemy's span shows already."""
    opens_connection: bool | None = None
    """Whether a pool's checkout opened a connection, so that nobody handed it one; None where that is not known."""
    is_entry: bool = True
    """Whether a request begins here: a root, a server or consumer span, or the first span of another service."""
    bounds: tuple[int, int] = (0, 0)
    """(start_ns, end_ns) of what lies inside the parent's own times; both equal where nothing does."""
    notes: list[str] = field(default_factory=list)
    _order: list[Node] = field(default_factory=list, repr=False)
    """All nodes of the trace, depth first in start order: a subtree is a slice of it."""
    _first: int = 0
    _behind: int = 0

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns

    @property
    def called(self) -> str:
        """What a client span calls: service and endpoint of its callee where that is instrumented, else the operation.

        Addresses change with every deployment; services and endpoints stay, so that findings keep their names.
        """
        callee = next((child.span for child in self.children if child.is_entry), None)
        return f"{callee.service} {callee.endpoint}" if callee is not None else self.span.operation

    def waited_for(self) -> list[Node]:
        """Children whose end the parent waited for, in start order."""
        return [child for child in self.children if child.awaited]

    def walk(self) -> list[Node]:
        """This node and all below it, depth first in start order."""
        return self._order[self._first : self._behind]

    def own_nodes(self) -> list[Node]:
        """This entry span and what its own service did for it: other entry spans and what is below them left out."""
        order, at = self._order, self._first + 1
        own = [self]
        while at < self._behind:
            node = order[at]
            if node.is_entry:
                at = node._behind
            else:
                own.append(node)
                at += 1
        return own
