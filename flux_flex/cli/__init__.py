"""The ``flux-flex`` command: parses the words, calls the command's own module, ends with a code.

Nothing heavy is imported before a command is known, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from flux_flex import __version__
from flux_flex.cli.output import OutputError, flush
from flux_flex.errors import EXIT_BAD_INPUT, FlexError
from flux_flex.model.quoting import printable

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0    done; for match: it fits
  1    match: it fits, but not now; usernetes: it failed on a node; doctor: something is missing
  2    match: it never fits
  3    bad input: a file, a key, a number or the words of the command
  70   an error of flux-flex itself
  130  interrupted
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong words are bad input: 2, argparse's own code, means "never" here."""
        self.exit(EXIT_BAD_INPUT, f"flux-flex: {message}\ntry {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_closed_streams()
    # Where the locale has no ƒ, a question mark is better than no report.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        options = _options(argv)
        command = importlib.import_module(f"flux_flex.cli.{options.command}")
        code: int = command.run(options)
        flush()
        return code
    except FlexError as error:
        where = f"{error.where}: " if error.where else ""
        say(f"{where}{error.what}", error.remedy)
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except OutputError as error:
        _discard_output()
        if error.is_broken_pipe:
            return 0
        say(f"cannot print: {error.reason}", "redirect the output to where there is room")
        return EXIT_BAD_INPUT
    except Exception as error:  # no traceback reaches a user
        if os.environ.get("FLUX_FLEX_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"[:200]
        remedy = "this is a bug; run again with FLUX_FLEX_DEBUG=1 and report what it shows"
        say(f"internal error: {what}", remedy)
        return EXIT_INTERNAL


def _open_closed_streams() -> None:
    """Stand-ins where a shell closed standard streams, as with ``>&-``; Python has None for them.

    What is opened next would otherwise get their numbers, and all that is printed. The stand-in
    for output cannot be written, so that whoever prints there learns of it as of a full disk.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The words as options. Raises SystemExit, with all printed, after ``--help``."""
    try:
        return _parser().parse_args(argv)
    except SystemExit:
        flush()
        raise


def _discard_output() -> None:
    """Python would complain again when it flushes at exit, so what is left goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(what: str, remedy: str = "") -> None:
    """Tell the user on standard error what happened and, on a line of its own, the way out."""
    lines = [f"flux-flex: {printable(what)}", *([printable(remedy)] if remedy else [])]
    with suppress(OSError):  # nobody is left who could be told
        sys.stderr.write("".join(f"{line}\n" for line in lines))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="flux-flex",
        description="Kubernetes for Flux jobs, and when a queue should burst, and at what cost.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flux-flex {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    _add_simulate(commands.add_parser("simulate", help="replay a queue with and without bursting"))
    _add_plan(commands.add_parser("plan", help="decide once, for a queue as it is now"))
    _add_match(commands.add_parser("match", help="ask whether a jobspec fits a resource graph"))
    _add_explain(commands.add_parser("explain", help="show all that was weighed for one job"))
    _add_burst(
        commands.add_parser("burst", help="rent nodes for jobs that wait, in a running Flux")
    )
    _add_catalog(commands.add_parser("catalog", help="look up node types and prices"))
    _add_topology(commands.add_parser("topology", help="where nodes sit on the AWS network"))
    _add_usernetes(commands.add_parser("usernetes", help="a Kubernetes over the whole instance"))
    _add_doctor(commands.add_parser("doctor", help="look at this machine: found, missing, remedy"))
    return parser


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.description = "Replay a queue under a virtual clock, without and with bursting."
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file (YAML)")
    parser.add_argument(
        "--json", action="store_true", help="print the report as JSON (docs/json.md)"
    )
    parser.add_argument("--svg", metavar="FILE", help="draw the timeline of nodes and jobs")
    parser.add_argument("--out", metavar="DIR", help="write a MiniCluster manifest for each burst")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description = "Decide once what to rent for a queue, at the moment it was dumped."
    parser.add_argument("scenario", metavar="SCENARIO", help="a scenario file (YAML)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON (docs/json.md)")
    parser.add_argument("--out", metavar="DIR", help="write a MiniCluster manifest for each burst")


def _add_match(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Ask one question: 0 it fits, 1 not now, 2 never, 3 the question cannot be read."
    )
    parser.add_argument("jobspec", metavar="JOBSPEC", help="a jobspec (YAML or JSON), - for stdin")
    parser.add_argument(
        "--graph", metavar="G", help="an R or a JGF file; without it the running instance is asked"
    )
    parser.add_argument(
        "--busy",
        metavar="R",
        action="append",
        default=[],
        help="an R of what is in use, repeatable",
    )
    parser.add_argument(
        "--engine",
        default="auto",
        help="live, fluxion, embedded, or auto: the first of these that is there",
    )
    parser.add_argument(
        "--policy",
        default="first",
        help="match policy: first, low, high, lonode, hinode, lonodex, hinodex, locality, topology",
    )
    parser.add_argument(
        "--format", choices=["tree", "jgf", "R", "json"], default="tree", help="how to print it"
    )


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show every alternative that was weighed for one job."
    parser.add_argument(
        "jobid", metavar="JOBID", help="a job id as `flux jobs` shows it, or a name"
    )
    parser.add_argument(
        "--plan", metavar="FILE", required=True, help="what plan or simulate printed with --json"
    )


def _add_burst(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the controller that rents nodes for jobs that wait, and ask it."
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    serve = actions.add_parser("serve", help="run the controller until SIGTERM or Ctrl-C")
    serve.add_argument("--config", metavar="FILE", help="a flex.toml other than the site's")
    configure = actions.add_parser("configure", help="write what an instance needs to be joined")
    configure.add_argument(
        "--r", metavar="FILE", required=True, help="R of the instance's own hosts"
    )
    configure.add_argument("--out", metavar="DIR", help="where to; default: here")
    explain = actions.add_parser("explain", help="show all that was weighed for one job")
    explain.add_argument("jobid", metavar="JOBID", help="a burstable job that waits")
    start = actions.add_parser("start", help="rent again, after stop or after protection")
    start.add_argument("--provider", metavar="NAME", help="trust this provider again")
    drain = actions.add_parser("drain", help="let bursts go as soon as their jobs have ended")
    drain.add_argument("burst", nargs="?", metavar="BURST", help="this one; default: all")
    eksctl = actions.add_parser("eksctl-config", help="print an EKS cluster to review")
    eksctl.add_argument("--name", required=True, help="of the cluster")
    eksctl.add_argument("--region", required=True, help="where it is to be")
    eksctl.add_argument("--zones", required=True, nargs="+", metavar="ZONE", help="two or more")
    reap = actions.add_parser("reap", help="find what is rented and not in the ledger")
    reap.add_argument("--yes", action="store_true", help="release it")
    plain = {
        "status": "show bursts by state, slots, and providers that are not asked",
        "list": "show each burst with its jobs and its cost",
        "stop": "rent nothing more",
        "budget": "show what the running period has cost",
        "eventlog": "show the ledger",
    }
    asked = [explain, start, drain]
    asked += [actions.add_parser(name, help=text) for name, text in plain.items()]
    for one in asked:
        one.add_argument("--json", action="store_true", help="print the answer as JSON")


def _add_catalog(parser: argparse.ArgumentParser) -> None:
    parser.description = "Keep the file of node types that may be rented, with their prices."
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    update = actions.add_parser("update", help="look them up at EC2 and in AWS's price list")
    update.add_argument("--region", metavar="REGION", help="the region that prices hold for")
    update.add_argument("--profile", metavar="PROFILE", help="the AWS profile")
    update.add_argument("--types", metavar="TYPE", nargs="+", default=[], help="more node types")
    update.add_argument("--file", metavar="FILE", required=True, help="the catalogue")


def _add_topology(parser: argparse.ArgumentParser) -> None:
    parser.description = "Learn where EC2 instances sit on the network, show it, pass it on."
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    fetch = actions.add_parser("fetch", help="ask EC2 and write it for a scheduler")
    _add_ec2(fetch)
    fetch.add_argument("--r", metavar="FILE", help="the hosts of this R, into which it is merged")
    fetch.add_argument("--jgf", metavar="FILE", help="the nodes of this JGF, likewise")
    fetch.add_argument("--live", action="store_true", help="the hosts of the running instance")
    fetch.add_argument("--file", metavar="OUT", help="write here instead of to standard output")
    fetch.add_argument(
        "--format", choices=["jgf", "aws", "r", "slurm", "dot"], default="jgf", help="default: jgf"
    )
    fetch.add_argument(
        "--no-scheduling", action="store_true", help="with --format r: properties, no graph"
    )
    show = actions.add_parser("show", help="draw the tree, with states and jobs of an instance")
    _add_answers(show)
    show.set_defaults(instance=[], group=[])  # it shows what there is
    show.add_argument("--r", metavar="FILE", help="the hosts of an R, and no running instance")
    show.add_argument("--live", action="store_true", help="of the running instance, or fail")
    show.add_argument("--job", metavar="ID", help="mark the nodes of one job")
    show.add_argument("--svg", metavar="FILE", help="draw it as a picture")
    show.add_argument("--json", action="store_true", help="print it as JSON (docs/json.md)")
    show.add_argument("--all", action="store_true", help="show each host, however many there are")
    tell = actions.add_parser("tell", help="pass it on to the running instance and its fluxion")
    _add_ec2(tell)


def _add_ec2(parser: argparse.ArgumentParser) -> None:
    """Which instances, and how EC2 is asked."""
    for name, metavar, what in (
        ("instance", "ID", "instances by id"),
        ("group", "NAME", "instances of a placement group"),
        ("filter", "K=V[,V]", "instances that match an EC2 filter, such as tag:cluster=blue"),
        ("region", "REGION", "ask this region; several make one tree"),
        ("profile", "PROFILE", "ask with this AWS profile; several make one tree"),
    ):
        parser.add_argument(
            f"--{name}", metavar=metavar, nargs="+", action="extend", default=[], help=what
        )
    parser.add_argument(
        "--strict", action="store_true", help="refuse if a host has no place on the network"
    )
    parser.add_argument(
        "--max-age", metavar="FSD", help="use an answer from the cache up to this age; 0: never"
    )
    _add_answers(parser)


def _add_answers(parser: argparse.ArgumentParser) -> None:
    """Answers that there are already, and what hosts are called in them."""
    parser.add_argument(
        "--offline", metavar="FILE", nargs="+", action="extend", default=[],
        help="files with EC2's answers, instead of asking EC2",
    )  # fmt: skip
    parser.add_argument(
        "--host-map", metavar="FILE", default="", help="JSON: host names with their instance ids"
    )
    parser.add_argument(
        "--names",
        choices=["dns", "id", "ip", "tag"],
        help="what to call an instance where no R says it; default: dns, as EC2 calls its hosts",
    )


def _add_usernetes(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Bring up a Kubernetes over all nodes of the instance, take it away, and look at clusters."
    )
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=_Parser
    )
    up = actions.add_parser("up", help="bring a cluster up over the nodes of the instance")
    up.add_argument("--nodes", type=int, metavar="N", help="over its first N nodes only")
    actions.add_parser("down", help="take it away")
    status = actions.add_parser("status", help="show the clusters that the hosts know of")
    status.add_argument("--json", action="store_true", help="print it as JSON (docs/json.md)")
    logs = actions.add_parser("logs", help="print what the make targets of bring-ups said")
    logs.add_argument("jobids", nargs="*", metavar="JOBID", help="of these jobs only")
    clean = actions.add_parser("clean", help="take away what jobs left that are over")
    clean.add_argument("jobids", nargs="*", metavar="JOBID", help="of these jobs, over or not")
    clean.add_argument("--all", action="store_true", help="of all jobs, over or not")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = "Look at this machine: what is found, what is missing, what mends it."
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--check", action="append", default=[], metavar="NAME", help="only this check, repeatable"
    )
