"""Jobspecs: canonical (RFC 14) and V1 (RFC 25), parsed once into frozen objects.

    >>> spec = parse_jobspec('{"version": 1, "resources": [...], ...}')
    >>> spec.resources[0].type, spec.duration_s
    ('node', 3600.0)

A :class:`Jobspec` holds what matching and deciding look at; the decoded text stays in ``raw``
for whoever submits it again. V1 is the canonical form with fewer shapes, so both parse to the
same classes. Whatever is malformed raises :class:`~flux_flex.errors.BadInput` with the key path.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from flux_flex.errors import BadInput
from flux_flex.model.constraints import Constraint, parse_constraint
from flux_flex.model.count import Count, parse_count
from flux_flex.model.quoting import brief, one_line, quoted

# Bounds on what a submitted text may make us do. The largest systems have some 160,000 nodes;
# a request beyond these is a typing error or an attack, and is refused with its place.
MAX_NODES = 262_144
MAX_TOTAL = 1 << 53  # of anything: memory is counted, too; whole numbers of JSON end here
MAX_DEPTH = 32
MAX_REQUESTS = 1_000
MAX_TEXT = 4 << 20
MAX_YAML_DEPTH = 100
MAX_YAML_NODES = 4_000_000

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Resource:
    """One vertex of the request: a resource type, or a ``slot`` that groups what is below it.

    ``exclusive`` is None where the jobspec does not say; ``label`` names a slot for its tasks.
    """

    type: str
    count: Count
    unit: str = ""
    exclusive: bool | None = None
    label: str = ""
    children: tuple[Resource, ...] = ()

    @property
    def is_slot(self) -> bool:
        return self.type == "slot"

    def walk(self) -> Iterator[Resource]:
        """This vertex and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Jobspec:
    """What a job asks for.

    Two jobspecs are equal when they ask for the same resources for the same time, whatever they
    run: queues hold many jobs of few shapes, and an answer for one is an answer for all.
    ``duration_s`` is 0 for a job without a limit (RFC 14). ``system`` and ``user`` are the
    decoded ``attributes.system`` and ``attributes.user`` mappings.
    """

    resources: tuple[Resource, ...]
    duration_s: float
    constraint: Constraint | None
    name: str = field(compare=False)
    command: tuple[str, ...] = field(compare=False)
    system: Mapping[str, object] = field(compare=False, repr=False)
    user: Mapping[str, object] = field(compare=False, repr=False)
    raw: Mapping[str, object] = field(compare=False, repr=False)

    @property
    def burstable(self) -> bool:
        """Whether ``--setattr=burstable`` was given, under ``system`` or under ``user``."""
        return any(_truthy(place.get("burstable")) for place in (self.system, self.user))

    @property
    def is_best_effort(self) -> bool:
        """Whether it was ``--setattr=burstable=best-effort``: the job takes as many rented nodes as
        come up, instead of all or none."""
        return any(place.get("burstable") == "best-effort" for place in (self.system, self.user))


def load_jobspec(text: str) -> Jobspec:
    """Parse a jobspec from JSON or YAML text. Raises BadInput."""
    return parse_jobspec(decode(text))


def decode(text: str) -> object:
    """Decode JSON or YAML text of bounded size and depth. Raises BadInput.

    JSON is tried first: it is what Flux writes, and it is many times faster than YAML.
    """
    if len(text) > MAX_TEXT:
        raise BadInput(f"{len(text)} characters of jobspec", "", f"keep it below {MAX_TEXT}")
    try:
        return json.loads(text)
    except ValueError:
        return decode_yaml(text)
    except RecursionError:
        raise BadInput("nested too deeply", "", f"nest at most {MAX_DEPTH} levels") from None


def decode_yaml(text: str) -> object:
    """Decode one YAML document, with the line of the first error. Raises BadInput.

    Also where it nests deeper than ``MAX_YAML_DEPTH``, on which libyaml overruns its stack, and
    where its aliases stand for more than ``MAX_YAML_NODES`` values.
    """
    try:
        _check_yaml(text)
        return yaml.load(text, Loader=_YAML_LOADER)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = f"not valid YAML or JSON: {error.problem or error.context}"
        raise BadInput(what, place, "correct the syntax there") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError) as error:
        # The last three: what PyYAML raises on tags that do not suit their text, as in !!int "".
        what = one_line(error, 120)
        raise BadInput(f"not valid YAML or JSON: {what}", "", "correct the syntax") from None


class _Keys:
    """The keys of the mappings that are open. YAML forbids a key twice, and PyYAML takes the
    last one: a limit that stands there twice would not be the one that is read."""

    def __init__(self) -> None:
        self._open: list[tuple[set[str] | None, bool]] = []  # keys (None: a list), a key is next

    def see(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            return
        keys, key_is_next = self._open[-1] if self._open else (None, False)
        if keys is not None:
            self._open[-1] = keys, not key_is_next
            if key_is_next and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
                if event.value in keys:
                    mark = event.start_mark
                    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
                    raise BadInput(f"the key {quoted(event.value)} twice", place, "keep one")
                keys.add(event.value)
        if isinstance(event, yaml.MappingStartEvent):
            self._open.append((set(), True))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open.append((None, False))


def _check_yaml(text: str) -> None:
    """Bound depth and size, aliases written out, by the stream of events: nothing is built yet."""
    count = 0
    size_of: dict[str, int] = {}
    keys = _Keys()
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_YAML_LOADER):
        keys.see(event)
        if isinstance(event, yaml.CollectionEndEvent):
            name, before = opened.pop()
            if name is not None:
                size_of[name] = count - before
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if any(anchor == outer for outer, _ in opened):
                raise BadInput(f"{quoted(anchor)} contains itself", "", "write it out")
            count += size_of.get(anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, count))
            count += 1
        if len(opened) > MAX_YAML_DEPTH:
            raise BadInput("nested too deeply", "", f"nest at most {MAX_YAML_DEPTH} levels")
        if count > MAX_YAML_NODES:
            raise BadInput("too many values, aliases written out", "", "use fewer aliases")


def parse_jobspec(value: object) -> Jobspec:
    """Validate a decoded jobspec.

    Raises BadInput naming the key path, such as ``resources[0].with[0].count``, for whatever
    RFC 14 does not allow and for requests beyond the bounds at the top of this file.
    """
    spec = _mapping(value, "", "a jobspec is a mapping with version, resources, tasks, attributes")
    version = spec.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version not in (1, 9999):
        raise BadInput(
            f"version {brief(version)} is not known", "version", "use 1 (RFC 25) or 9999 (RFC 14)"
        )
    resources = _resources(spec.get("resources"), "resources", 1, itertools.count(1))
    _check_totals(resources)
    attributes = _optional_mapping(spec.get("attributes"), "attributes")
    system = _optional_mapping(attributes.get("system"), "attributes.system")
    user = _optional_mapping(attributes.get("user"), "attributes.user")
    try:
        constraint = parse_constraint(system.get("constraints"))
    except BadInput as error:
        raise error.at("attributes.system.constraints") from None
    return Jobspec(
        resources=resources,
        duration_s=_duration(system.get("duration", 0)),
        constraint=constraint,
        name=_job_name(system, spec.get("tasks")),
        command=_command(spec.get("tasks")),
        system=system,
        user=user,
        raw=spec,
    )


def _resources(
    value: object, place: str, depth: int, counted: Iterator[int]
) -> tuple[Resource, ...]:
    if depth > MAX_DEPTH:
        raise BadInput("nested too deeply", place, f"nest at most {MAX_DEPTH} levels")
    if not isinstance(value, list) or not value:
        raise BadInput(
            "a jobspec without resources" if depth == 1 else "an empty list of resources",
            place,
            "list at least one resource, such as {type: slot, count: 1, with: [...]}",
        )
    return tuple(_resource(item, f"{place}[{i}]", depth, counted) for i, item in enumerate(value))


def _resource(value: object, place: str, depth: int, counted: Iterator[int]) -> Resource:
    # Counted as they are met: aliases let a few lines of YAML stand for a tree without end.
    if next(counted) > MAX_REQUESTS:
        raise BadInput("too many resources", "resources", f"list at most {MAX_REQUESTS}")
    item = _mapping(value, place, "a resource is a mapping with type and count")
    kind = item.get("type")
    if not isinstance(kind, str) or not kind or not kind.isprintable() or len(kind) > 64:
        raise BadInput("no resource type", f"{place}.type", "name one, such as node or core")
    if "count" not in item:
        raise BadInput("no count", f"{place}.count", "say how many, such as count: 1")
    exclusive = item.get("exclusive")
    if exclusive is not None and not isinstance(exclusive, bool):
        what = f"{brief(exclusive)} is not true or false"
        raise BadInput(what, f"{place}.exclusive", "use a boolean")
    below = item.get("with")
    if kind == "slot" and below is None:
        raise BadInput("a slot with nothing in it", f"{place}.with", "list what a slot holds")
    return Resource(
        type=kind,
        count=parse_count(item["count"], f"{place}.count"),
        unit=_text(item.get("unit", ""), f"{place}.unit"),
        exclusive=exclusive,
        label=_text(item.get("label", ""), f"{place}.label"),
        children=() if below is None else _resources(below, f"{place}.with", depth + 1, counted),
    )


def _duration(value: object) -> float:
    place = "attributes.system.duration"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(
            f"{brief(value)} is not a number of seconds", place, "use 3600, or 0 for none"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise BadInput(f"a duration of {seconds}", place, "use seconds, or 0 for no limit")
    return seconds


def _check_totals(resources: tuple[Resource, ...]) -> None:
    """Refuse a request for more nodes, or more of anything, than any system has."""
    stack = [(item, 1) for item in resources]
    while stack:
        item, above = stack.pop()
        asked = above * item.count.least
        if item.type == "node" and asked > MAX_NODES:
            raise BadInput(
                f"a job of {asked} nodes", "resources", f"ask for at most {MAX_NODES} nodes"
            )
        if asked > MAX_TOTAL:
            what = f"counts that multiply to {asked:.0e} {quoted(item.type)}"
            raise BadInput(what, "resources", f"ask for at most {MAX_TOTAL} of anything")
        stack += [(child, asked) for child in item.children]


def _job_name(system: Mapping[str, object], tasks: object) -> str:
    job = system.get("job")
    name = job.get("name") if isinstance(job, Mapping) else None
    if isinstance(name, str) and name:
        return name
    command = _command(tasks)
    # The same default as `flux jobs` shows: the base name of the command.
    return command[0].rsplit("/", 1)[-1] if command else ""


def _command(tasks: object) -> tuple[str, ...]:
    if tasks is None:
        return ()
    if not isinstance(tasks, list):
        raise BadInput("tasks is not a list", "tasks", "list tasks with command, slot and count")
    for task in tasks:
        command = task.get("command") if isinstance(task, Mapping) else None
        if isinstance(command, list) and all(isinstance(word, str) for word in command):
            return tuple(command)
    return ()


def _mapping(value: object, place: str, remedy: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{brief(value)} is not a mapping", place, remedy)
    return value


def _optional_mapping(value: object, place: str) -> Mapping[str, object]:
    return {} if value is None else _mapping(value, place, "use a mapping, or leave it out")


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{brief(value)} is not text", place, "use a string")
    return value


def _truthy(value: object) -> bool:
    return value not in (None, False, 0, "", "0", "no", "false")
