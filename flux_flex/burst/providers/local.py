"""The provider ``local``: real brokers on this machine, which join the instance late.

    provider = LocalProvider(types, follower_toml(hosts, lead, certificate), rundir="/run/burst")
    provider.request(Rental("hpc7a-0", "hpc7a.12xlarge", ("hpc7a-0-0", "hpc7a-0-1")))
    provider.observe()          # [Observed("hpc7a-0", Phase.READY, 2)]
    provider.release("hpc7a-0")

It is for trying bursting out without an account anywhere. All that it knows is in a folder, which
belongs to one instance::

    RUNDIR/.hpc7a-0.lock                # flock: one call at a time for each burst
    RUNDIR/hpc7a-0/rental.json          # what was asked for
                  /broker.toml          # the brokers' configuration
                  /leaving              # since release was called
                  /0/broker.json        # host, process id, and when that process began
                    /broker.log         # its output
                    /run/               # its -Srundir

A broker is written down before it begins: its process waits at a pipe until its id is on disk, and
ends if whoever started it does not live to tell it to go on. So a provider that is made anew finds
every broker, and a process that has got the id of an earlier one is told from it by its beginning.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flux_flex.burst.bootstrap import follower_options
from flux_flex.burst.catalog import NodeType
from flux_flex.burst.providers import Observed, Phase, Rental
from flux_flex.burst.providers.records import (
    NAME,
    in_our_words,
    locked,
    read,
    read_rental,
    refused,
    tail,
    write,
)
from flux_flex.burst.providers.sessions import KILL_S, Session, end, end_strays, gated
from flux_flex.errors import BadInput, FlexError
from flux_flex.model.hostlist import format_hostlist

# A broker needs about a second to say good-bye to the lead; then it and its jobs are killed.
RELEASE_S = 30.0
# A socket's path has room for 107 characters (unix(7)), and a rank for five digits.
_MOST_PATH = 107 - len("/local-99999")

# What says that we run in a job or as part of an instance is not true of a broker of ours.
_NOT_INHERITED = (
    "FLUX_URI", "FLUX_CONF_DIR", "FLUX_KVS_NAMESPACE", "FLUX_ENCLOSING_ID", "FLUX_JOB_",
    "FLUX_TASK_", "PMI_", "PMIX_",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Broker:
    """broker.json: the session's process, 0 before there is one, and whether it was told to go on
    and become a broker."""

    host: str
    pid: int = 0
    start: int = 0
    boot: str = ""
    begun: bool = False

    @property
    def session(self) -> Session:
        return Session(self.pid, self.start, self.boot)

    @property
    def is_ready(self) -> bool:
        return self.begun and self.session.is_alive


class LocalProvider:
    """Rents brokers of this machine.

    ``types`` are what their hosts are said to be in R. ``broker_toml`` is their configuration (see
    :func:`~flux_flex.burst.bootstrap.follower_toml`). ``rundir`` is an absolute path, for this
    instance alone; it is made when it is needed. ``release_s`` is how long brokers may take to
    end before they are killed, in seconds.
    """

    def __init__(
        self, types: Sequence[NodeType], broker_toml: str, *, rundir: str | Path,
        flux: str = "flux", release_s: float = RELEASE_S,
    ) -> None:  # fmt: skip
        self._types = tuple(types)
        self._broker_toml = broker_toml
        self._rundir = Path(rundir)
        self._flux = flux
        self._release_s = release_s
        self._wait_s = release_s + 2 * KILL_S
        self._children: set[int] = set()
        self._reaping = threading.Lock()

    def types(self) -> Sequence[NodeType]:
        return self._types

    def request(self, rental: Rental) -> None:
        """Start the brokers that do not run, those that have ended included.

        Raises BadInput for names that cannot be used, for another rental of that name, and where
        there is no flux; FlexError where it is being released, or nothing can be written.
        """
        command = self._command(rental)
        folder = self._rundir / rental.burst
        with locked(self._rundir, rental.burst, self._wait_s), in_our_words(folder):
            if (folder / "leaving").exists():
                raise FlexError("it is being released", rental.burst, "wait until it is gone")
            known = read_rental(folder)
            if known is not None and (known.type, known.hosts) != (rental.type, rental.hosts):
                what = f"it is {known.nodes} x {known.type} already"
                raise BadInput(what, rental.burst, "release it first")
            if known is None:
                self._prepare(folder, rental)
            for place, host in enumerate(rental.hosts):
                self._start(command, folder / str(place), host)

    def observe(self) -> Sequence[Observed]:
        """Every burst that has a folder. ``nodes`` counts the brokers that run."""
        self._reap()
        try:
            names = sorted(os.listdir(self._rundir))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise refused(error, self._rundir) from None
        found = (_observed(self._rundir / name) for name in names if NAME.fullmatch(name))
        return [one for one in found if one is not None]

    def release(self, burst: str) -> None:
        """End the brokers, and remove the folder; returns when they have ended.

        Raises FlexError where one cannot be ended; all of it can be called again.
        """
        if not NAME.fullmatch(burst) or read_rental(self._rundir / burst) is None:
            return
        with locked(self._rundir, burst, self._wait_s), in_our_words(self._rundir / burst):
            folder = self._rundir / burst
            rental = read_rental(folder)
            if rental is None:
                return
            (folder / "leaving").touch(mode=0o600)
            places = [folder / str(place) for place in range(rental.nodes)]
            brokers = {place: one for place in places if (one := _read_broker(place)) is not None}
            left = end([broker.session for broker in brokers.values()], self._release_s)
            self._reap()
            if left:
                what = f"process {left[0].pid} cannot be killed"
                raise FlexError(what, burst, "look at this machine")
            for place, broker in brokers.items():
                end_strays(broker.session, str(place / "run"))
            shutil.rmtree(folder)

    def close(self) -> None:
        """The brokers stay."""
        self._reap()

    # -- details

    def _command(self, rental: Rental) -> list[str]:
        """The program, as an absolute path, if all that makes up the rest of the line is usable."""
        if not NAME.fullmatch(rental.burst):
            raise BadInput("it cannot name a burst", repr(rental.burst)[:80], "use a DNS label")
        format_hostlist(rental.hosts)
        longest = self._rundir / rental.burst / str(rental.nodes) / "run"
        if not self._rundir.is_absolute() or len(os.fsencode(longest)) > _MOST_PATH:
            what = f"no absolute path, or more than {_MOST_PATH} characters with what is below it"
            raise BadInput(what, str(self._rundir), "choose a shorter burst.local.rundir")
        program = shutil.which(self._flux)
        if program is None:
            raise BadInput("no such command", self._flux, "set burst.local.flux in flex.toml")
        return [os.path.abspath(program), "broker"]

    def _prepare(self, folder: Path, rental: Rental) -> None:
        """Make the folder, with all in it that makes it a burst, or nothing."""
        new = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        write(new / "broker.toml", self._broker_toml)
        write(new / "rental.json", json.dumps(asdict(rental)))
        new.rename(folder)

    def _start(self, command: Sequence[str], place: Path, host: str) -> None:
        """Start one broker if it does not run, with its record always a step ahead of it."""
        known = _read_broker(place)
        if known is not None and known.is_ready:
            return
        run = place / "run"
        if known is not None:
            # Whoever began it died before it was told to go on, or just after: nobody knows. And
            # what is left of a broker's jobs would be there beside those of the next one.
            end([known.session], self._release_s)
            end_strays(known.session, str(run))
        shutil.rmtree(run, ignore_errors=True)
        place.mkdir(mode=0o700, exist_ok=True)
        run.mkdir(mode=0o700)
        _write_broker(place, _Broker(host))
        options = follower_options(host, str(place.parent / "broker.toml"), str(run))
        environment = {name: value for name, value in os.environ.items() if _is_inherited(name)}
        with gated([*command, *options], place / "broker.log", environment) as (session, go):
            with self._reaping:
                self._children.add(session.pid)
            broker = _Broker(host, session.pid, session.start, session.boot)
            _write_broker(place, broker)
            go()
        _write_broker(place, replace(broker, begun=True))

    def _reap(self) -> None:
        """Take note of children that have ended; without it they stay as zombies."""
        with self._reaping:
            for pid in [*self._children]:
                try:
                    ended = os.waitpid(pid, os.WNOHANG)[0] == pid
                except ChildProcessError:
                    ended = True
                if ended:
                    self._children.discard(pid)


# -- what is there ---------------------------------------------------------------------------------


def _observed(folder: Path) -> Observed | None:
    """A burst by its folder; None for a folder of something else, or that went away just now."""
    try:
        rental = read_rental(folder)
        if rental is None:
            return None
        places = [folder / str(place) for place in range(rental.nodes)]
        brokers = [(place, _read_broker(place)) for place in places]
        leaving = (folder / "leaving").exists()
        if not folder.is_dir():
            return None
    except OSError as error:
        raise refused(error, folder) from None
    ready = sum(broker is not None and broker.is_ready for _, broker in brokers)
    if leaving:
        return Observed(rental.burst, Phase.LEAVING, ready)
    for place, broker in brokers:
        if broker is not None and broker.begun and not broker.is_ready:
            reason = f"the broker of {broker.host} has ended: {tail(place / 'broker.log')}"
            return Observed(rental.burst, Phase.FAILED, ready, reason)
    if ready < rental.nodes:
        return Observed(rental.burst, Phase.COMING, ready, "not all brokers are started")
    return Observed(rental.burst, Phase.READY, ready)


def _read_broker(place: Path) -> _Broker | None:
    return read(place / "broker.json", lambda document: _Broker(**document))


def _write_broker(place: Path, broker: _Broker) -> None:
    write(place / "broker.json", json.dumps(asdict(broker)))


def _is_inherited(name: str) -> bool:
    return not name.startswith(_NOT_INHERITED)
