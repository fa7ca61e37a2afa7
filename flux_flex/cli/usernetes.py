"""``flux-flex usernetes``: a cluster over a whole instance, and what hosts know of clusters."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.live import Live
from rich.table import Table

from flux_flex.cli.console import console, plain_table, print_json, word
from flux_flex.errors import BadInput
from flux_flex.model.duration import format_duration
from flux_flex.model.quoting import quoted

EXIT_FAILED = 1

# A rank says little in one line; what is longer is not ours.
_MOST_LINE = 1 << 20

Line = Mapping[str, Any]


def run(options: argparse.Namespace) -> int:
    """Run one of the commands; 0 if it went well on all ranks."""
    if options.action == "up":
        return _up(options)
    if options.action in ("down", "clean"):
        return _away(options)
    lines, code = _collected(options)
    if options.action == "logs":
        out = console()
        for line in lines:
            if "line" in line:
                out.print(word(f"{line['host']} (rank {line['rank']}): {line['line']}"))
    elif options.json:
        records = [line["record"] for line in lines if "record" in line]
        print_json({"format": "flux-flex-usernetes", "version": 1, "nodes": records})
    else:
        _print_status([line["record"] for line in lines if "record" in line])
    return code


# -- up --------------------------------------------------------------------------------------------


def _up(options: argparse.Namespace) -> int:
    out = console()
    steps: dict[int, tuple[str, str]] = {}
    failed: dict[str, str] = {}
    kubeconfig = ""
    began = time.monotonic()
    live = Live(console=out, transient=True, refresh_per_second=8)
    with live, closing(_Ranks(_words(options))) as ranks:
        for line in ranks.lines():
            if "step" in line:
                steps[line["rank"]] = (line["node"], line["step"])
                live.update(_progress(steps, time.monotonic() - began))
                if not out.is_terminal:
                    out.print(word(f"{line['node']}: {line['step']}"))
            if line["rank"] == 0:
                kubeconfig = line.get("kubeconfig", kubeconfig)
            if "failed" in line:
                failed[line["failed"]] = line["failed"]
            if failed and steps:  # without a step no rank has begun, and there is none to stop
                ranks.cancel()
    for text in list(failed)[:4]:
        out.print(word(text, "red"))
    if failed or ranks.code:
        out.print(word("the cluster did not come up"))
        return EXIT_FAILED
    out.print(word(f"{len(steps)} nodes are up after {format_duration(time.monotonic() - began)}"))
    out.print(word(f"export KUBECONFIG={kubeconfig}"), soft_wrap=True)
    return 0


def _progress(steps: Mapping[int, tuple[str, str]], seconds: float) -> Table:
    table = plain_table()
    table.add_column(f"{seconds:.0f} s")
    table.add_column("")
    for _, (node, step) in sorted(steps.items())[:40]:
        table.add_row(word(node), word(step, "green" if step == "ready" else ""))
    return table


# -- down, clean, status, logs ---------------------------------------------------------------------


def _away(options: argparse.Namespace) -> int:
    lines, code = _collected(options)
    out = console()
    gone = [line for line in lines if "left" in line]
    for line in gone:
        for text in line["left"]:
            out.print(word(f"{line['host']}: left behind: {text}", "red"))
    clean = sum(not line["left"] for line in gone)
    out.print(word(f"{clean} nodes are taken away" if gone else "there was nothing to take away"))
    return code


def _print_status(records: Sequence[Mapping[str, Any]]) -> None:
    out = console()
    if not records:
        out.print(word("no clusters"))
        return
    table = plain_table()
    for title in ("cluster", "host", "state", "step", "age", "API port", "directory"):
        table.add_column(title, no_wrap=title != "directory", overflow="fold")
    for record in sorted(records, key=lambda one: (one["name"].rpartition(".")[0], one["rank"])):
        age = format_duration(max(0.0, time.time() - record["began"]))
        port = record["ports"].get("kube-apiserver", "")
        state = f"{record['phase']} lead" if record["lead"] else record["phase"]
        table.add_row(
            word(record["name"]), word(record["host"]), word(state), word(record["step"]),
            age, str(port), word(record["workdir"]),
        )  # fmt: skip
    out.print(table)


def _collected(options: argparse.Namespace) -> tuple[list[Line], int]:
    """What all ranks said, and the worst exit code. Complaints are printed as they come."""
    out, lines = console(stderr=True), []
    with closing(_Ranks(_words(options))) as ranks:
        for line in ranks.lines():
            if "failed" in line:
                out.print(word(f"{line['host']}: {line['failed']}", "red"))
            lines.append(line)
        return lines, ranks.code


# -- the ranks -------------------------------------------------------------------------------------


def _words(options: argparse.Namespace) -> list[str]:
    words = [options.action]
    if options.action == "up":
        # Each bring-up meets under a key of its own: what an earlier one left is not replayed.
        words += ["--run", secrets.token_hex(8)]
    if getattr(options, "nodes", None) is not None:
        if options.nodes < 1:
            raise BadInput(f"{options.nodes} nodes", "--nodes", "give a number from 1 on")
        words += ["--nodes", str(options.nodes)]
    if getattr(options, "all", False):
        words.append("--all")
    return [*words, *getattr(options, "jobids", [])]


class _Ranks:
    """The program of one rank, on all ranks of the instance, or here where there is none."""

    def __init__(self, words: Sequence[str]) -> None:
        program = [sys.executable, "-I", "-m", "flux_flex.usernetes.whole", *words]
        inside = bool(os.environ.get("FLUX_URI"))
        if not inside and words[0] in ("up", "down"):
            remedy = "run it inside an instance: flux start, flux alloc, flux batch"
            raise BadInput("no Flux instance here", "FLUX_URI", remedy)
        command = ["flux", "exec", "--noinput", "--quiet", *program] if inside else program
        try:
            # A session of its own: Ctrl-C is passed on once, and waited for.
            self._process = subprocess.Popen(  # noqa: S603 - a list of ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise BadInput(f"{error.strerror}", command[0], "put it on PATH") from None
        self._cancelled = False
        self.code = 0

    def lines(self) -> Iterator[Line]:
        """What the ranks say, until all have ended. Ctrl-C lets them undo what they did first."""
        try:
            yield from self._read()
        except KeyboardInterrupt:
            self.cancel()
            for _ in self._read():
                pass
            raise
        finally:
            self.code = 1 if self._process.wait() else 0

    def cancel(self) -> None:
        """Ask all ranks to stop, once."""
        if not self._cancelled and self._process.poll() is None:
            self._cancelled = True
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        # What they still say is read, or a full pipe would keep them.
        self._process.communicate()

    def _read(self) -> Iterator[Line]:
        assert self._process.stdout is not None
        while text := self._process.stdout.readline(_MOST_LINE):
            try:
                line = json.loads(text)
            except ValueError:
                raise BadInput(f"a rank said {quoted(text)}", "flux exec") from None
            if isinstance(line, dict):
                yield {"host": "", "rank": -1, **line}
