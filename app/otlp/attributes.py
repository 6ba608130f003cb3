"""Attribute values as Python values and as lossless JSON text.

JSON text keeps what JSON cannot say by itself in one-key objects: bytes as {"$bytes": base64}, NaN and infinities as
{"$double": "NaN"}, and maps that have a key of that look as {"$map": {…}}. Whole doubles keep their `.0`.
"""

from __future__ import annotations

AttributeValue = str | bool | int | float | bytes | list["AttributeValue"] | dict[str, "AttributeValue"] | None
