"""Lengths of time as people write them on a command line."""

import re

from edgeskin.errors import EdgeskinError

_FORM = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds(text: str) -> float:
    """Seconds of "90", "90s", "30m", "1h30m" or "1.5h".

    Raises:
        EdgeskinError: anything else.

    >>> seconds("1h30m"), seconds("90"), seconds("0.5m")
    (5400.0, 90.0, 30.0)
    """
    found = _FORM.fullmatch(text.strip())
    if not text.strip() or found is None:
        raise EdgeskinError(
            "not a length of time", got=text, possible="90s, 30m, 1h30m", fix="write it like one of these"
        )
    return sum(float(part) * unit for part, unit in zip(found.groups(), (3600.0, 60.0, 1.0), strict=True) if part)


def words(length_s: float) -> str:
    """Seconds as the shortest text that `seconds` reads back to the whole second.

    >>> words(5400), words(59.6), words(0)
    ('1h30m', '1m', '0s')
    """
    left = round(length_s)
    parts = []
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
