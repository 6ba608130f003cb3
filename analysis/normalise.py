"""Texts that differ only in their values made equal: SQL statements and URLs as operation keys."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

MAX_OPERATION_LENGTH = 500

# Placeholders first: with literals first `$1` turns into `$?`, and IN lists of different length no longer match.
_PLACEHOLDER = re.compile(r"\$\d+(?:::[\w\[\] ]+?(?=[\s,)]|$))?|%s|%\(\w+\)s|(?<![:\w]):[a-zA-Z_]\w*|\?")
_STRING = re.compile(r"'(?:[^']|'')*'")
_NUMBER = re.compile(r"(?<![\w?])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?\b", re.IGNORECASE)
_LIST = re.compile(r"\(\s*\?(?:\s*,\s*\?)+\s*\)")
_LISTS = re.compile(r"\(\?\*\)(?:\s*,\s*\(\?\*\))+")
_BLANKS = re.compile(r"\s+")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)

_SEGMENT_ID = re.compile(
    r"^(?:\d+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,64}|(?=[a-z-]*\d)[a-z]{1,8}[-_]\d+)$",
    re.IGNORECASE,
)


@lru_cache(maxsize=8192)
def normalise_sql(statement: str) -> str:
    """A statement with its values as `?`, value lists as `(?*)` and blanks collapsed, at most 500 characters."""
    words = _COMMENT.sub(" ", statement[:20_000])
    words = _PLACEHOLDER.sub("?", words)
    words = _STRING.sub("?", words)
    words = _NUMBER.sub("?", words)
    words = _BLANKS.sub(" ", words).strip()
    words = _LISTS.sub("(?*)", _LIST.sub("(?*)", words))
    return words[:MAX_OPERATION_LENGTH]


@lru_cache(maxsize=16384)
def url_template(url: str) -> str:
    """A URL without query and credentials, its path segments that look like ids as `{n}`, at most 500 characters."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = bare.partition("://")
    if not separator:
        scheme, rest = "", bare
    authority, slash, path = rest.partition("/")
    if scheme:
        authority = authority.rpartition("@")[2]
    segments = ["{n}" if _SEGMENT_ID.match(segment) else segment for segment in path.split("/")]
    return f"{scheme}{separator}{authority}{slash}{'/'.join(segments)}"[:MAX_OPERATION_LENGTH]


def content_hash64(content: str | bytes) -> int:
    """A 63-bit BLAKE2b hash, the same in every process and release; never 0."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return (int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1) or 1
