"""Job ids in Flux's two spellings: a 64 bit number, and F58 (RFC 19), as people type it."""

from __future__ import annotations

from flux_flex.errors import BadInput

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE = {letter: value for value, letter in enumerate(_ALPHABET)}
_LARGEST = (1 << 64) - 1


def f58(jobid: int) -> str:
    """The F58 spelling of a job id, such as ``ƒvYw4PR``."""
    digits = ""
    number = jobid
    while number or not digits:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return f"ƒ{digits}"


def parse_jobid(text: str) -> int:
    """A job id from decimal, hexadecimal (``0x``) or F58 text.

    F58 may begin with ``f`` where a locale cannot show ``ƒ`` (RFC 19). Raises BadInput.
    """
    remedy = "use an id as `flux jobs` shows it"
    word = text.strip()
    if word[:1] in ("ƒ", "f") and len(word) > 1 and all(c in _VALUE for c in word[1:12]):
        number = 0
        for letter in word[1:]:
            number = number * 58 + _VALUE.get(letter, 58)
    else:
        try:
            number = int(word, 0)
        except ValueError:
            raise BadInput(f"{text[:40]!r} is no job id", "", remedy) from None
    if not 0 <= number <= _LARGEST or len(word) > 20:
        raise BadInput(f"{text[:40]!r} is no job id", "", remedy)
    return number
