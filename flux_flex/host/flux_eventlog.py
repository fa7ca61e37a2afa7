"""Eventlogs (RFC 18) in the KVS of a running Flux: append to one, and follow one; and one lookup.

Flux's Python bindings have neither, nor a lookup that ends, the C library below them has all
three, so this file calls it through the bindings' own wrapper. Nothing polls: the KVS answers when
the log has grown.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flux_flex.errors import BadInput, FlexError
from flux_flex.host.flux_answers import parse_event, refused
from flux_flex.host.flux_bindings import bindings
from flux_flex.host.instance import Event
from flux_flex.model.quoting import quoted


def lookup(handle: Any, key: str, *, deadline_s: float) -> str:
    """The text under a key. Raises OSError: EISDIR for a directory, ETIMEDOUT when it is late."""
    kvs = bindings("flux.kvs")
    text = kvs.ffi.new("char *[1]")
    future = bindings("flux.future").Future(kvs.RAW.flux_kvs_lookup(handle, None, 0, key))
    future.wait_for(deadline_s)
    kvs.RAW.flux_kvs_lookup_get(future.pimpl, text)
    # An empty value has no text at all.
    return "" if text[0] == kvs.ffi.NULL else kvs.ffi.string(text[0]).decode("utf-8", "replace")


def append(
    handle: Any,
    key: str,
    timestamp: float,
    name: str,
    context: Mapping[str, object],
    *,
    deadline_s: float,
) -> None:
    """Add an entry to the log under a key, in one commit, so that writers do not meet.

    Raises BadInput for what is no JSON, and RpcError for what the KVS refuses.
    """
    kvs, constants = bindings("flux.kvs"), bindings("flux.constants")
    place = f"KVS key {quoted(key)}"
    try:
        entry = json.dumps({"timestamp": timestamp, "name": name, "context": dict(context)})
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"no JSON: {error}", place, "post plain data") from None
    # A transaction of our own: the handle's may hold what somebody else has not committed.
    change = kvs.KVSTxn(handle)
    try:
        flag = constants.FLUX_KVS_APPEND
        kvs.RAW.flux_kvs_txn_put(change.txn, flag, key, f"{entry}\n")
        change.commit_async().wait_for(deadline_s).get()
    except OSError as error:
        raise refused(error, place) from error


def follow(handle: Any, key: str) -> Iterator[Event]:
    """The entries of a log as they come. It ends only with an error, RpcError or FlexError."""
    kvs, constants = bindings("flux.kvs"), bindings("flux.constants")
    place = f"KVS key {quoted(key)}"
    flags = (
        constants.FLUX_KVS_WATCH | constants.FLUX_KVS_WATCH_APPEND | constants.FLUX_KVS_WAITCREATE
    )
    text = kvs.ffi.new("char *[1]")
    try:
        future = kvs.KVSWatchFuture(kvs.RAW.flux_kvs_lookup(handle, None, flags, key))
        while True:
            future.wait_for()
            kvs.RAW.flux_kvs_lookup_get(future.pimpl, text)
            for line in kvs.ffi.string(text[0]).decode("utf-8", "replace").splitlines():
                yield parse_event(line, place)
            future.reset()
    except OSError as error:
        raise refused(error, place) from error


class Watch:
    """An EventStream that a thread of its own fills, from a connection of its own.

    A wait inside Flux's library cannot be interrupted by a signal; a wait for the thread can.
    """

    def __init__(self, connect: Callable[[], Any], key: str) -> None:
        self._connect = connect
        self._key = key
        self._come: queue.SimpleQueue[Event | FlexError] = queue.SimpleQueue()
        # A daemon: nothing but an event wakes it, so nobody can wait for its end.
        threading.Thread(target=self._follow, daemon=True).start()

    def next(self, timeout_s: float) -> Event | None:
        """The next entry, or None if none came in time. Raises FlexError if the log ended."""
        try:
            come = self._come.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        if isinstance(come, FlexError):
            self._come.put(come)  # for whoever asks again
            raise come
        return come

    def _follow(self) -> None:
        try:
            for event in follow(self._connect(), self._key):
                self._come.put(event)
        except FlexError as error:
            self._come.put(error)
