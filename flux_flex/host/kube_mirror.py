"""A copy of some objects of a cluster, kept up to date by a watch in a thread.

    pods = Mirror(kube, PODS, "bursts", labels="flux-flex.io/burst")
    pods.start()
    pods.objects()           # what the watch has told so far, after a first list
    pods.close()

A watch that is cut goes on where it was; where the server has forgotten that, all is listed again.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from flux_flex.errors import FlexError
from flux_flex.host.kube import Kube, Resource, Stream
from flux_flex.host.kube_errors import Expired, KubeError, Object

log = logging.getLogger("flux_flex.kube")


class Mirror:
    """A copy of what a selector selects, which a thread keeps up to date by a watch.

    ``changed`` is called in that thread after each change.
    """

    def __init__(
        self, kube: Kube, resource: Resource, namespace: str, *, labels: str = "",
        fields: str = "", changed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._resource = resource
        self._namespace = namespace
        self._selectors = {"labels": labels, "fields": fields}
        self._changed = changed
        self._objects: dict[str, Object] = {}
        self._version = ""
        self._listed = False
        self._error: FlexError | None = None
        self._lost_s = 0.0
        self._news = threading.Condition()
        self._ending = threading.Event()
        self._stream: Stream | None = None
        self._told = False
        name = f"watch-{resource.plural}"
        # A daemon: a process that ends does not wait for a server to say something.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the watch. What was seen so far can still be read."""
        self._ending.set()
        with self._news:
            stream = self._stream
        if stream is not None:
            stream.close()
        if self._thread.is_alive():
            self._thread.join(self._kube.bounds.connect_s)

    def objects(self) -> Sequence[Object]:
        """What is there, in no order, after the first list. Raises FlexError without contact."""
        with self._news:
            self._news.wait_for(lambda: self._listed or self._error, self._kube.bounds.call_s)
            lost_s = time.monotonic() - self._lost_s if self._error is not None else 0.0
            if self._error is not None and (not self._listed or lost_s > self._kube.bounds.stale_s):
                raise self._error.with_traceback(None)
            if not self._listed or not (self._thread.is_alive() or self._ending.is_set()):
                raise KubeError("the watch does not answer", self._resource.plural)
            return list(self._objects.values())

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            began_s, self._told = time.monotonic(), False
            try:
                if not self._version:
                    self._list()
                self._follow()
            except Expired as error:
                log.info("%s: listing again: %s", self._resource.plural, error.what)
                self._version = ""
            except FlexError as error:
                self._failed(error)
            # A quiet watch that the server ended in time is no failure.
            lived = time.monotonic() - began_s > self._kube.bounds.pause_s[1]
            failures = 0 if self._told or lived else failures + 1
            self._ending.wait(self._kube.bounds.pause(failures))

    def _list(self) -> None:
        found, version = self._kube.list(self._resource, self._namespace, **self._selectors)
        with self._news:
            self._objects = {_uid(one): one for one in found}
            self._version = version
            self._listed = True
        self._heard()
        self._changed()

    def _follow(self) -> None:
        stream = self._kube.watch(self._resource, self._namespace, self._version, **self._selectors)
        with self._news:
            self._stream = stream
        if self._ending.is_set():
            stream.close()
        self._heard()
        for kind, one in stream:
            self._told = True
            with self._news:
                if kind == "DELETED":
                    self._objects.pop(_uid(one), None)
                elif kind != "BOOKMARK":
                    self._objects[_uid(one)] = one
                self._version = one["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                self._changed()

    def _heard(self) -> None:
        with self._news:
            self._error = None
            self._news.notify_all()

    def _failed(self, error: FlexError) -> None:
        if self._ending.is_set():
            return
        log.info("%s: the watch is cut: %s", self._resource.plural, error.what)
        with self._news:
            self._lost_s = self._lost_s if self._error is not None else time.monotonic()
            self._error = error
            self._news.notify_all()


def _uid(one: Object) -> str:
    return str(one["metadata"]["uid"])
