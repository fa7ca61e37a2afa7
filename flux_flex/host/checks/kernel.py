"""doctor's checks of the kernel: cgroups, modules and sysctls, as Usernetes wants them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from flux_flex.host.checks.findings import Finding, Problem, Status, judged
from flux_flex.host.checks.survey import Survey

_CGROUP = "/sys/fs/cgroup"
_CONTROLLERS = ("cpu", "memory", "pids")
_DELEGATE = "/etc/systemd/system/user@.service.d/delegate.conf"

# Each with the option of the kernel that builds it in.
_MODULES = {
    "br_netfilter": "BRIDGE_NETFILTER",
    "vxlan": "VXLAN",
    "ip_tables": "IP_NF_IPTABLES",
    "ip6_tables": "IP6_NF_IPTABLES",
    "iptable_nat": "IP_NF_NAT",
    "ip6table_nat": "IP6_NF_NAT",
}
# Without these no pod reaches another; the others matter to engines that use iptables-legacy.
_NEEDED = ("br_netfilter", "vxlan")
_MODULES_FILE = "/etc/modules-load.d/usernetes.conf"
_SYSCTL_FILE = "/etc/sysctl.d/99-usernetes.conf"


def cgroup(survey: Survey) -> Finding:
    """Control groups are of version 2, without which no rootless engine limits anything."""
    if survey.machine.exists(f"{_CGROUP}/cgroup.controllers"):
        return Finding("cgroup", "found", "version 2")
    remedy = (
        "# in /etc/default/grub: add systemd.unified_cgroup_hierarchy=1 to GRUB_CMDLINE_LINUX\n"
        f"{survey.as_root('update-grub')} && {survey.as_root('reboot')}"
    )
    if survey.rootful:
        what = "version 1, which does for a rootful engine alone, and Kubernetes gives it up"
        return Finding("cgroup", "warning", what, remedy)
    return Finding("cgroup", "missing", "version 1, rootless engines need 2", remedy)


def cgroup_delegation(survey: Survey) -> Finding:
    """systemd hands the controllers of cgroup v2 on to users."""
    name, machine = "cgroup-delegation", survey.machine
    if not machine.exists("/run/systemd/system"):
        return Finding(name, "skipped", "systemd does not run here")
    if not machine.exists(f"{_CGROUP}/cgroup.controllers"):
        return Finding(name, "skipped", "there is no cgroup v2")
    if survey.rootful:
        return Finding(name, "skipped", "the engine is rootful")
    found = machine.listing(
        f"{_CGROUP}/user.slice", "user-*.slice/user@*.service/cgroup.controllers"
    )
    own = [place for place in found if f"/user@{machine.uid}.service/" in place]
    text = machine.find_text(own[0]) if own else None
    if text is None and machine.uid == 0 and found:
        text = machine.find_text(found[0])
    if text is None:
        remedy = survey.as_root(f"loginctl enable-linger {machine.user}") if machine.uid else ""
        return Finding(name, "unknown", "no user@.service is running to look at", remedy)
    lacking = [controller for controller in _CONTROLLERS if controller not in text.split()]
    if not lacking:
        return Finding(name, "found", " ".join(text.split()))
    remedy = (
        f"# {_DELEGATE}, then: {survey.as_root('systemctl daemon-reload')}, and log in anew\n"
        "[Service]\nDelegate=cpu cpuset io memory pids"
    )
    return Finding(name, "missing", f"users do not get {', '.join(lacking)}", remedy)


def modules(survey: Survey) -> Finding:
    """The kernel has what the pod network and its rules need."""
    present, certain = _present_modules(survey)
    lacking = [module for module in _MODULES if module not in present]
    if not lacking:
        return Finding("modules", "found", "all loaded or built in")
    commands = (
        survey.as_root(f"modprobe -a {' '.join(lacking)}"),
        *(f"echo {m} | {survey.as_root(f'tee -a {_MODULES_FILE}')}" for m in lacking),
    )
    status: Status = "missing" if any(module in lacking for module in _NEEDED) else "warning"
    what = f"not loaded: {' '.join(lacking)}"
    if not certain:
        status, what = "unknown", f"the kernel does not tell whether it has {' '.join(lacking)}"
    return Finding("modules", status, what, "\n".join(commands))


def _present_modules(survey: Survey) -> tuple[set[str], bool]:
    """What is there, by all that the kernel tells; and whether that is all there is."""
    machine = survey.machine
    release = (machine.find_text("/proc/sys/kernel/osrelease") or "").strip()
    loaded = machine.find_text("/proc/modules")
    builtin = machine.find_text(f"/lib/modules/{release}/modules.builtin")
    present = {line.split(" ")[0] for line in (loaded or "").splitlines()}
    for line in (builtin or "").splitlines():
        present.add(line.rpartition("/")[2].partition(".ko")[0].replace("-", "_"))
    present |= {module for module in _MODULES if machine.exists(f"/sys/module/{module}")}
    config = None if builtin is not None else _kernel_config(survey, release)
    lines = set((config or "").splitlines())
    present |= {module for module, option in _MODULES.items() if f"CONFIG_{option}=y" in lines}
    return present, builtin is not None or config is not None


def _kernel_config(survey: Survey, release: str) -> str | None:
    """What the kernel was built with, where it has no list of what is built in."""
    try:
        packed = survey.machine.read_bytes("/proc/config.gz")
        text = zlib.decompressobj(wbits=31).decompress(packed, 1 << 22)
        return text.decode(errors="replace")
    except (OSError, zlib.error):
        return survey.machine.find_text(f"/boot/config-{release}")


def sysctls(survey: Survey) -> Finding:
    """Packets are forwarded, and not dropped for the way they came; users may have namespaces."""
    problems = [*_network_problems(survey), *_namespace_problems(survey)]
    return judged("sysctls", problems, "rp_filter, ip_forward and user namespaces")


def _network_problems(survey: Survey) -> Iterator[Problem]:
    if _sysctl(survey, "net.ipv4.conf.default.rp_filter") not in ("0", "2"):
        yield _wrong(survey, "net.ipv4.conf.default.rp_filter", "2")
    if _sysctl(survey, "net.ipv4.ip_forward") != "1":
        yield _wrong(survey, "net.ipv4.ip_forward", "1")


def _namespace_problems(survey: Survey) -> Iterator[Problem]:
    """Of rootless engines alone. Two of the files exist on Debian and Ubuntu only."""
    status: Status = "warning" if survey.rootful else "missing"
    if _sysctl(survey, "kernel.unprivileged_userns_clone") not in ("1", None):
        yield _wrong(survey, "kernel.unprivileged_userns_clone", "1", status)
    if _sysctl(survey, "user.max_user_namespaces") in ("0", None):
        yield _wrong(survey, "user.max_user_namespaces", "28633", status)
    if _sysctl(survey, "kernel.apparmor_restrict_unprivileged_userns") not in ("0", None):
        yield _wrong(survey, "kernel.apparmor_restrict_unprivileged_userns", "0", "warning")


def _sysctl(survey: Survey, name: str) -> str | None:
    text = survey.machine.find_text(f"/proc/sys/{name.replace('.', '/')}")
    return None if text is None else text.strip()


def _wrong(survey: Survey, name: str, wanted: str, status: Status = "missing") -> Problem:
    value = _sysctl(survey, name)
    what = f"{name} is {'not there' if value is None else value[:40]}"
    line = f"echo '{name} = {wanted}' | {survey.as_root(f'tee -a {_SYSCTL_FILE}')}"
    return Problem(what, f"{line} && {survey.as_root('sysctl --system')}", status)
