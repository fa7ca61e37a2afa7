"""Counters as Prometheus text, on a loopback port that the administrator opts in to.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format: ``GET /metrics`` is
answered from what was last published, so that a scrape never waits for the controller.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from flux_flex.errors import BadInput

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """A server on 127.0.0.1 in a thread of its own. Raises BadInput where the port is taken."""

    def __init__(self, port: int) -> None:
        self._text = b""
        publisher = self

        class Answer(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                found = self.path == "/metrics"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", _TYPE)
                self.end_headers()
                if found:
                    self.wfile.write(publisher._text)

            def log_message(self, *_: object) -> None:
                """Scrapes are nobody's news."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
        except OSError as error:
            what = error.strerror or "cannot be had"
            raise BadInput(what, f"port {port}", "set burst.metrics_port to another") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def publish(self, gauges: Mapping[str, float]) -> None:
        """Say these from now on; names are whole, with labels where there are any."""
        lines: list[str] = []
        for name, value in gauges.items():
            family = name.partition("{")[0]
            if not any(line == f"# TYPE {family} gauge" for line in lines):
                lines.append(f"# TYPE {family} gauge")
            lines.append(f"{name} {value!r}")
        self._text = ("\n".join(lines) + "\n").encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
