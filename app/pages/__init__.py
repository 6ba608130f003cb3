"""Server-rendered pages: a handler each, one list of routes."""
