"""Sizes, ages and lists as people write and read them. Pure. May depend on: errors."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

from .errors import InvalidArgumentError, InvalidSizeError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_BINARY = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = r"(?ia)\s*(\d{1,40}(?:\.\d{1,40})?)\s*([kmgt]?)(i?b)?\s*"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = r"(?ia)\s*(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]*)\s*"


def whole(value: object, what: str) -> int:
    """Return `value` as an int, if it is a whole number of any type (numpy's included), but not a truth value.

    Raises TypeError, which calls it `what`.
    """
    if not isinstance(value, bool):
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{what} is a whole number, not {type(value).__name__}")


def parse_size(text: str) -> int:
    """Return the number of bytes `text` stands for.

    `K`, `M`, `G`, `T` and `KiB`, `MiB`, … are powers of 1,024; `KB`, `MB`, … powers of 1,000; a bare
    number is bytes. A fraction must come out at a whole number of bytes (`1.5G` does, `0.3` does not).

    Raises `InvalidSizeError` for anything else.
    """
    import re  # imported here: `import mshare` needs none of it, and it takes 4 ms

    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise InvalidSizeError(f"invalid size {text!r}", "use a number with an optional unit, such as 64K or 1.5GiB")
    number, prefix, suffix = match[1], match[2].lower(), (match[3] or "").lower()
    factor: int = 1000 ** " kmgt".index(prefix or " ") if suffix == "b" else _BINARY[prefix]
    whole, _, fraction = number.partition(".")
    numerator = int(whole + fraction) * factor
    size_bytes, rest = divmod(numerator, 10 ** len(fraction))
    if rest:
        raise InvalidSizeError(f"{text!r} is not a whole number of bytes", "write it with a smaller unit")
    return int(size_bytes)


def format_size(size_bytes: float) -> str:
    """Return `size_bytes` in the largest binary unit that fits, three significant digits, rounded **down**
    (878.9 GiB reads "878 GiB"), so that what is shown is never more than what there is."""
    if size_bytes < 0:
        return "-" + format_size(-size_bytes)
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    step = 0
    value = float(size_bytes)
    while value >= 1024 and step < len(units) - 1:
        value /= 1024
        step += 1
    digits = 2 if value < 10 else 1 if value < 100 else 0
    scaled = int(value * 10**digits)
    text = f"{scaled / 10**digits:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {units[step]}"


def format_time(nanoseconds: float) -> str:
    """Return a duration in milliseconds, or in microseconds if it is shorter than one, with one digit after the
    point."""
    return f"{nanoseconds / 1e6:,.1f} ms" if nanoseconds >= 1e6 else f"{nanoseconds / 1e3:.1f} µs"


def format_apart(size_bytes: int, other_bytes: int) -> tuple[str, str]:
    """Return two different texts for two different sizes: of `format_size` if these texts differ, else exact bytes
    ("67391488 bytes")."""
    texts = format_size(size_bytes), format_size(other_bytes)
    if texts[0] == texts[1] and size_bytes != other_bytes:
        return f"{size_bytes} bytes", f"{other_bytes} bytes"
    return texts


def parse_age(text: str) -> float:
    """Return the seconds `text` stands for: a number and its unit `s`, `m`, `h`, `d` or `w`.

    Raises `InvalidArgumentError` for anything else. Commands delete by an age. An age that people read in two ways is
    therefore refused: other programs take a number without a unit for days, and `M` for months.
    """
    import re

    match = re.fullmatch(_AGE, text)
    if match is not None and match[2] in _SECONDS:
        return float(match[1]) * _SECONDS[match[2]]
    if match is None:
        problem = f"invalid age {text!r}"
    elif not match[2]:
        problem = f"the age {text!r} has no unit"
    else:
        problem = f"the unit of the age {text!r} is none of s, m, h, d, w"
    raise InvalidArgumentError(problem, "write an age like 90s, 30m (minutes), 12h, 7d or 2w")


def format_age(seconds: float) -> str:
    """Return `seconds` in the largest unit that fits, rounded down to a whole number ("26h" reads "1d"). A time in the
    future, after a clock was set, gives "0s"."""
    whole = max(0, int(seconds))
    unit = next((unit for unit in "wdhms" if whole >= _SECONDS[unit]), "s")
    return f"{whole // _SECONDS[unit]}{unit}"


def format_list(items: Sequence[object], most: int = 10) -> str:
    """Return the first `most` of `items`, separated by commas, and how many more there are: "1, 2 and 15 more"."""
    shown = ", ".join(map(str, items[:most]))
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
