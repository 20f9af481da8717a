"""Whether the hub can be asked: one look, a few seconds at most, for libraries take a minute to notice its absence."""

import os
import urllib.error
import urllib.request
from functools import cache

DEFAULT = "https://huggingface.co"
SECONDS = 3.0
REACHABLE, SWITCHED_OFF, NO_ANSWER = "reachable", "switched off", "no answer"


def answer() -> str:
    """`reachable`, `switched off` (HF_HUB_OFFLINE) or `no answer`."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return SWITCHED_OFF
    return _ask(os.environ.get("HF_ENDPOINT") or DEFAULT)


def reachable() -> bool:
    """Whether the hub answers; asked once per process and address."""
    return answer() == REACHABLE


@cache
def _ask(endpoint: str) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS):
            return REACHABLE
    except urllib.error.HTTPError as refused:  # a proxy that forbids it answers too, but not for the hub
        return REACHABLE if refused.code < 500 and refused.code not in (403, 407) else NO_ANSWER
    except (OSError, ValueError):
        return NO_ANSWER
