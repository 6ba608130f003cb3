"""Errors that analyses raise or let through."""


class QueryInterrupted(Exception):
    """A query was stopped because its deadline passed or its reader left."""


class NotFound(Exception):
    """The trace, endpoint or finding that was asked for is not in this dataset and window."""
