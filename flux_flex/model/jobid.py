"""Job ids in Flux's two spellings: a 64 bit number, and F58 (RFC 19), as people type it."""

from __future__ import annotations

import re

from flux_flex.errors import BadInput
from flux_flex.model.quoting import clipped_int

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE = {letter: value for value, letter in enumerate(_ALPHABET)}
_LARGEST = (1 << 64) - 1

# As long as 64 bits can be: what is longer is refused before it costs anything.
_F58 = re.compile(f"[ƒf][{_ALPHABET}]{{1,11}}")
_NUMBER = re.compile("0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}")


def f58(jobid: int) -> str:
    """The F58 spelling of a job id, such as ``ƒvYw4PR``. Raises BadInput beyond 64 bits."""
    if not 0 <= jobid <= _LARGEST:
        raise BadInput(f"{clipped_int(jobid)} is no job id", "", "job ids are 64 bit numbers")
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
    number = -1
    if _F58.fullmatch(word):
        number = 0
        for letter in word[1:]:
            number = number * 58 + _VALUE[letter]
    elif _NUMBER.fullmatch(word):
        number = int(word, 0)
    if not 0 <= number <= _LARGEST:
        raise BadInput(f"{text[:40]!r} is no job id", "", remedy)
    return number


def job_kvs_key(jobid: int, key: str = "") -> str:
    """The job's directory in the KVS (RFC 16): ``job.0000.0008.2f2c.0000``, then ``key``."""
    digits = f"{jobid:016x}"
    directory = ".".join(["job", *(digits[i : i + 4] for i in range(0, 16, 4))])
    return f"{directory}.{key}" if key else directory
