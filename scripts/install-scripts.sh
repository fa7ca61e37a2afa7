#!/bin/sh
# Puts the scripts in place that a Flux system needs to run flux-flex. --help says how to use it.
#
# It never creates SYSTEM_DIR/prolog or SYSTEM_DIR/epilog: Flux would run such a file instead of
# everything in prolog.d and epilog.d, the site's own scripts included.

set -u
umask 022

usage() {
    cat <<'END'
usage: install-scripts.sh [OPTION]... [SYSTEM_DIR [FLUX_PREFIX]]

Installs into SYSTEM_DIR (default /etc/flux/system), the directory above it, and the Flux in
FLUX_PREFIX (default: the flux on PATH, else /usr):
  SYSTEM_DIR/prolog.d/50-flux-flex    brings up the Usernetes of a job that asks for one
  SYSTEM_DIR/epilog.d/50-flux-flex    takes it away
  SYSTEM_DIR/prolog.d/51-flux-flex-span    with --span: records how each job lies on the network
  SYSTEM_DIR/../rc1.d, rc3.d          let "usernetes attr" work in nested instances
  SYSTEM_DIR/../flex.toml             the configuration, if there is none
  the command "flux flex", and the job validator, among Flux's own commands
With --burst, on the lead and where users submit jobs:
  SYSTEM_DIR/../modules/flex-burst.py         the burst controller
  SYSTEM_DIR/../modprobe/rc1.d, rc3.d         load it in instances with [flex-burst], remove it
  SYSTEM_DIR/../cli/plugins/flux-flex-burst.py    the option --burst of "flux submit"
A file that is not from flux-flex is never replaced.

  --python PATH  the Python that has flux_flex (default: the first that has it of $PYTHON,
                 .venv/bin/python of this checkout, and python3 on PATH)
  --span         have the span of every job recorded, not only of those with a Usernetes;
                 each job of several nodes then waits for one Python
  --burst        also install what grows the system onto rented nodes
  --dry-run      print what would be done, and change nothing
  --uninstall    take away what was installed, and nothing else
  --help         print this

With DESTDIR set, everything is installed below it.
END
}

nl='
'
marker='# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.'
here=$(dirname -- "$(readlink -f -- "$0")")
checkout=$(dirname -- "$here")
source=$checkout/etc/flux
destdir=${DESTDIR:-}
destdir=${destdir%/}
am_root=false
[ "$(id -u)" = 0 ] && am_root=true

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "install-scripts: $*" >&2; }
fail() {
    complain "$*"
    exit 1
}
misused() {
    complain "$* (--help says how to use it)"
    exit 2
}

# ---- what was asked for ---------------------------------------------------------------------

dry_run=false
uninstall=false
with_span=false
with_burst=false
had_burst=false
python=
system=
prefix=

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry_run=true ;;
    --uninstall) uninstall=true ;;
    --span) with_span=true ;;
    --burst) with_burst=true ;;
    --python)
        [ -n "${2:-}" ] || misused "--python needs a path"
        python=$2
        shift
        ;;
    --python=?*) python=${1#--python=} ;;
    --help | -h)
        usage
        exit 0
        ;;
    -*) misused "there is no option $1" ;;
    '') misused "a directory must not be empty" ;;
    *)
        if [ -z "$system" ]; then
            system=$1
        elif [ -z "$prefix" ]; then
            prefix=$1
        else
            misused "too many arguments: $1"
        fi
        ;;
    esac
    shift
done

absolute() {
    case $1 in
    /*) path=$1 ;;
    *) path=$PWD/$1 ;;
    esac
    while [ "$path" != / ] && [ "$path" != "${path%/}" ]; do path=${path%/}; done
    printf '%s' "$path"
}

flux_prefix_on_path() {
    found=$(command -v flux) && [ -x "$found" ] || return 1
    found=$(readlink -f -- "$found") && dirname -- "$(dirname -- "$found")"
}

for given in "$system" "$prefix" "$python" "$destdir" "$checkout" "${PYTHON:-}"; do
    case $given in
    *"$nl"*) misused "a path must not contain a newline" ;;
    esac
done
system=$(absolute "${system:-/etc/flux/system}")
[ -n "$prefix" ] || prefix=$(flux_prefix_on_path) || prefix=/usr
prefix=$(absolute "$prefix")
[ -z "$destdir" ] || destdir=$(absolute "$destdir")
case $prefix in
*:*) misused "FLUX_PREFIX must not contain a colon, since its bin directory goes into PATH" ;;
esac
flux=$prefix/bin/flux
etc=$(dirname -- "$system")

# Distributions put Flux's commands in different places; Flux itself knows.
command_dir=$prefix/libexec/flux/cmd
if [ -x "$flux" ]; then
    told=$("$flux" config builtin exec_path 2>/dev/null)
    told=${told%%:*}
    case $told in
    *"$nl"*) ;;
    /*) command_dir=$told ;;
    esac
fi
validator=$(dirname -- "$command_dir")/flux-flex-validator.py

# ---- who may be trusted ---------------------------------------------------------------------

# Prints the first part of a path that TEST is true of, given its owner and its mode: the path, each
# directory above it, and wherever symbolic links among them lead. Fails if there is none.
first_part() { # TEST PATH
    queue=$2
    links=0
    while [ -n "$queue" ]; do
        part=${queue%%"$nl"*}
        case $queue in
        *"$nl"*) queue=${queue#*"$nl"} ;;
        *) queue= ;;
        esac
        while :; do
            owner=$(stat -c %u -- "$part" 2>/dev/null) || owner=unknown
            mode=$(stat -c %a -- "$part" 2>/dev/null) || mode=0
            if [ -L "$part" ]; then
                links=$((links + 1))
                target=$(readlink -- "$part")
                case $target in
                /*) ;;
                *) target=$(dirname -- "$part")/$target ;;
                esac
                queue=$target${queue:+$nl$queue}
                mode=755
            fi
            if "$1" "$owner" "$mode" || [ "$links" -gt 40 ]; then
                say "$part"
                return 0
            fi
            [ "$part" != / ] || break
            part=$(dirname -- "$part")
        done
    done
    return 1
}

changeable() { [ "$1" != 0 ] || [ $((0$2 & 022)) -ne 0 ]; }
unreachable() { [ $((0$2 & 001)) -eq 0 ]; }
open_to_others() { first_part changeable "$1"; }
closed_to_others() { first_part unreachable "$1"; }

existing_parent() {
    path=$1
    while [ ! -d "$path" ]; do path=$(dirname -- "$path"); done
    printf '%s' "$path"
}

# Root will run what is installed. Where only root can write to the place it is installed in,
# only root may be able to write to what it runs.
strict=false
if $am_root && [ -z "$destdir" ]; then
    case $system in
    /etc/*) strict=true ;;
    *) open_to_others "$(existing_parent "$system")" >/dev/null || strict=true ;;
    esac
fi

remedy="Make one that only root can change, as root:
  python3 -m venv /opt/flux-flex
  /opt/flux-flex/bin/python -m pip install '$checkout'
and run this again with --python /opt/flux-flex/bin/python"

# ---- the Python that runs flux_flex ---------------------------------------------------------

# Python's -c would import from where we are, before all other places.
without_cwd='import sys; sys.path[:] = filter(None, sys.path);'

# Where it finds flux_flex, and every place that it imports from; nothing is imported here.
imports_from='
import importlib.util, os, sys, sysconfig
spec = importlib.util.find_spec("flux_flex")
if spec is None or not spec.origin:
    sys.exit(1)
package = os.path.dirname(os.path.abspath(spec.origin))
purelib = sysconfig.get_path("purelib")
print(os.path.dirname(package), purelib, package, sep="\n")
print(*filter(os.path.exists, sys.path), sep="\n")
'

# Sets $places, or $why_not.
try_python() {
    if $strict && open=$(open_to_others "$1"); then
        why_not="$1: root would run it, but others can change $open"
        return 1
    fi
    places=$("$1" -I -c "$imports_from" 2>/dev/null) || {
        why_not="$1: it cannot import flux_flex"
        return 1
    }
    if $strict; then
        while IFS= read -r place; do
            [ -e "$place" ] || continue
            open=$(open_to_others "$place") || continue
            why_not="$1: root would run code from $place, but others can change $open"
            return 1
        done <<END
$places
END
    fi
    "$1" -I -c 'import flux_flex' >/dev/null 2>&1 || {
        why_not="$1: it cannot import flux_flex"
        return 1
    }
}

behind_python3() {
    real=$("$python" -I -c 'import sys; print(sys.executable)') || return
    if try_python "$real"; then python=$real; fi
}

find_python() {
    if [ -n "$python" ]; then
        set -- "$python"
    else
        set -- "${PYTHON:-}" "$checkout/.venv/bin/python" python3
    fi
    reasons=
    for named; do
        candidate=$named
        case $candidate in
        '') continue ;;
        */*) candidate=$(absolute "$candidate") ;;
        *) candidate=$(command -v -- "$candidate") || continue ;;
        esac
        if [ ! -x "$candidate" ] || [ -d "$candidate" ]; then
            reasons="$reasons$nl  $candidate: there is no such program"
        elif try_python "$candidate"; then
            python=$candidate
            # A version manager's python3 does not find its Python in the environment of a prolog.
            [ "$named" != python3 ] || behind_python3
            return
        else
            reasons="$reasons$nl  $why_not"
        fi
    done
    fail "no Python can be used:${reasons:-$nl  there is no python3 on PATH}$nl$remedy"
}

# ---- one file -------------------------------------------------------------------------------

work=
pending=
clean_up() {
    [ -z "$pending" ] || rm -f -- "$pending"
    [ -z "$work" ] || rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

trouble=

ours() { [ -f "$1" ] && head -n 5 -- "$1" 2>/dev/null | grep -qxF -- "$marker"; }
present() { [ -e "$1" ] || [ -L "$1" ]; }
plan() { printf '  %-10s %s\n' "$1" "$2"; }
note_trouble() { trouble="$trouble$nl  $1"; }

as_wanted() { # FILE MODE: whose it is, and who may do what with it
    [ "$(stat -c %a -- "$1")" = "$2" ] || return 1
    ! $am_root || [ "$(stat -c %u:%g -- "$1")" = 0:0 ]
}

write_file() { # FROM TO MODE
    into=$(dirname -- "$2")
    mkdir -p -- "$into" && pending=$(mktemp "$into/.flux-flex.XXXXXX") || return 1
    cat -- "$1" >"$pending" || return 1
    if $am_root; then chown 0:0 -- "$pending" || return 1; fi
    chmod "$3" -- "$pending" && mv -f -- "$pending" "$2" || return 1
    pending=
}

put() { # FROM TO MODE
    to=$destdir$2
    if present "$to" && ! ours "$to"; then
        plan "not ours" "$to"
        note_trouble "$to is not from flux-flex, so it stays. Move it away, then run this again."
        return
    fi
    if ! present "$to"; then
        verb=create
    elif [ ! -L "$to" ] && cmp -s -- "$1" "$to" && as_wanted "$to" "$3"; then
        plan unchanged "$to"
        return
    else
        verb=update
    fi
    if [ ! -w "$(existing_parent "$(dirname -- "$to")")" ]; then
        plan "no access" "$to"
        note_trouble "$to cannot be written by you. Run this as root, or give other directories."
        return
    fi
    plan "$verb" "$to"
    $dry_run || write_file "$1" "$to" "$3" || note_trouble "$to could not be written."
}

put_config() {
    to=$destdir$etc/flex.toml
    if ! present "$to"; then
        put "$source/flex.toml" "$etc/flex.toml" 644
    elif cmp -s -- "$source/flex.toml" "$to"; then
        plan unchanged "$to"
    else
        plan keep "$to (it is yours)"
    fi
}

# Which file of the configuration names $1, if any; comments do not count.
named_in() {
    for file in "$destdir$system"/conf.d/*.toml "$destdir$etc"/imp/conf.d/*.toml; do
        [ -f "$file" ] || continue
        if grep -v '^[[:space:]]*#' -- "$file" | grep -qF -- "$1"; then
            printf '%s' "$file"
            return
        fi
    done
    return 1
}

take_away() { # FILE [ours]
    to=$destdir$1
    if ! present "$to"; then
        plan absent "$to"
    elif [ "${2:-}" != ours ] && ! ours "$to"; then
        plan keep "$to (not from flux-flex)"
    elif file=$(named_in "$1"); then
        plan keep "$to"
        note_trouble "$to is still named in $file, and Flux would fail without it."
        note_trouble "Take the name out there, restart the brokers, then run this again."
    else
        plan remove "$to"
        $dry_run || rm -f -- "$to" || note_trouble "$to could not be removed."
    fi
}

# ---- all files ------------------------------------------------------------------------------

shell_quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }
python_escaped() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

rendered() { # TEMPLATE: prints the path of what becomes of it
    mkdir -p -- "$work/$(dirname -- "$1")"
    FLUX_BIN=$(shell_quoted "$prefix/bin") \
        PYTHON=$(shell_quoted "$python") \
        PACKAGE_DIR=$(python_escaped "$package_dir") \
        LIBRARY_DIR=$(python_escaped "$library_dir") \
        LC_ALL=C awk '
        {
            out = ""
            while (match($0, /@[A-Z_]+@/)) {
                name = substr($0, RSTART + 1, RLENGTH - 2)
                out = out substr($0, 1, RSTART - 1) ENVIRON[name]
                $0 = substr($0, RSTART + RLENGTH)
            }
            print out $0
        }' "$source/$1" >"$work/$1" || fail "cannot read $source/$1"
    printf '%s' "$work/$1"
}

span=prolog.d/51-flux-flex-span
module=$etc/modules/flex-burst.py
option=$etc/cli/plugins/flux-flex-burst.py

# The module is where modprobe's rc1.d/flux-flex.py looks for it.
each_burst_file() {
    "$1" modules/flex-burst.py "$module" 644
    "$1" modprobe/rc1.d/flux-flex.py "$etc/modprobe/rc1.d/flux-flex.py" 644
    "$1" modprobe/rc3.d/flux-flex.py "$etc/modprobe/rc3.d/flux-flex.py" 644
    "$1" plugins/flux-flex-burst.py "$option" 644
}
note_burst() { if ours "$destdir$2"; then with_burst=true; fi; }

# Calls $1 with: what it is made from, where it goes, its mode.
each_file() {
    "$1" system/prolog.d/50-flux-flex "$system/prolog.d/50-flux-flex" 755
    "$1" system/epilog.d/50-flux-flex "$system/epilog.d/50-flux-flex" 755
    # Who asked for it once has it kept up to date.
    if $with_span || ours "$destdir$system/$span"; then
        "$1" "system/$span" "$system/$span" 755
    fi
    "$1" rc1.d/50-flux-flex "$etc/rc1.d/50-flux-flex" 755
    "$1" rc3.d/50-flux-flex "$etc/rc3.d/50-flux-flex" 755
    "$1" cmd/flux-flex "$command_dir/flux-flex" 755
    "$1" flux-flex-validator.py "$validator" 644
    each_burst_file note_burst
    if $with_burst; then each_burst_file "$1"; fi
}

must_have() { [ -r "$source/$1" ] || fail "$source/$1 is missing: this is not a whole checkout"; }
install_one() {
    made=$(rendered "$1") || exit 1
    put "$made" "$2" "$3"
}
remove_one() { take_away "$2"; }

remove_all() {
    each_file remove_one
    to=$destdir$etc/flex.toml
    if present "$to" && ! cmp -s -- "$source/flex.toml" "$to"; then
        plan keep "$to (it is yours)"
    else
        take_away "$etc/flex.toml" ours
    fi
}

install_all() {
    each_file must_have
    must_have flex.toml
    find_python
    if $strict && [ -x "$flux" ] && open=$(open_to_others "$flux"); then
        fail "root would run $flux, but others can change $open"
    fi
    package_dir=$(printf '%s\n' "$places" | sed -n 1p)
    library_dir=$(printf '%s\n' "$places" | sed -n 2p)
    work=$(mktemp -d) || fail "cannot make a temporary directory"
    say "flux-flex of $python, for the Flux in $prefix:"
    each_file install_one
    put_config
}

# ---- what the site has to know --------------------------------------------------------------

warn_of_single_script() { # prolog or epilog
    single=$destdir$system/$1
    script=$system/$1.d/50-flux-flex
    if [ -f "$single" ] && [ -x "$single" ]; then
        say
        say "Warning: there is a $single. Flux runs it instead of the scripts in $1.d, so"
        say "$script will not run. Either move it to $system/$1.d/00-site,"
        say "or have it run the other at its end:"
        say "      $(shell_quoted "$script") || exit 1"
    elif present "$single"; then
        say
        say "Warning: there is a $single. Flux ignores it, since it is not an executable file."
        say "Were it one, Flux would run it instead of the scripts in $1.d: $script"
        say "would not run. Better move it to $system/$1.d/00-site, or remove it."
    fi
}

warn_of_other_directory() {
    [ -z "$destdir" ] && [ -x "$flux" ] || return 0
    reads=$("$flux" config builtin confdir 2>/dev/null) && [ -n "$reads" ] || return 0
    [ "$(readlink -m -- "$reads")" != "$(readlink -m -- "$etc")" ] || return 0
    say
    say "Note: this Flux has its files in $reads, not in $etc. By itself it runs neither"
    say "$system/prolog.d nor $etc/rc1.d. Install into $reads/system,"
    say "or name the scripts in the configuration and set FLUX_RC_EXTRA=$etc"
    $with_burst || return 0
    say "For bursting, brokers need FLUX_MODPROBE_PATH_APPEND=$etc/modprobe, and users"
    say "FLUX_CLI_PLUGINPATH=$etc/cli/plugins"
}

warn_of_closed_python() {
    $am_root && [ -z "$destdir" ] || return 0
    for place in "$python" "$package_dir/flux_flex"; do
        closed=$(closed_to_others "$place") || continue
        say
        say "Warning: only root can use $place, since $closed is"
        say "closed to others. For users there is no \"flux flex\", and the job validator, which runs"
        say "as the owner of the instance, would refuse each job that asks for a Usernetes."
        return
    done
}

warn_of_validator() {
    $dry_run || [ -n "$destdir" ] || [ ! -x "$flux" ] || [ ! -r "$validator" ] && return
    complaint=$("$flux" python "$validator" 2>&1) && return
    say
    say "Warning: the job validator would refuse each job that asks for a Usernetes, since"
    say "Flux's own Python cannot load it: $(say "$complaint" | tail -n 1)"
}

# What this Flux cannot do with what was installed. It is only looked at, nothing is loaded.
warn_of_burst() {
    $with_burst && ! $dry_run && [ -z "$destdir" ] && [ -x "$flux" ] || return 0
    if ! "$flux" python -c "$without_cwd import flux.brokermod" >/dev/null 2>&1; then
        say
        say "Note: this Flux loads no modules that are written in Python. Have the instance's owner"
        say "run \"flux-flex burst serve\" instead, as a service that is started again when it ends."
    elif [ -r "$module" ] && ! complaint=$("$flux" python "$module" 2>&1); then
        say
        say "Warning: the burst controller would not load, since Flux's own Python cannot import it:"
        say "$(say "$complaint" | tail -n 1). Make flux_flex's Python of the version of Flux's,"
        say "or run \"flux-flex burst serve\" instead."
    fi
    if ! "$flux" python -c "$without_cwd import flux.cli.plugin" >/dev/null 2>&1; then
        say
        say "Note: this Flux has no plugins of its commands, so no \"flux submit --burst\". Users write"
        say "--urgency=hold --setattr=burstable --setattr=user.flex.held=true instead."
    fi
}

note_loaded() {
    say
    say "Note: where an instance has the burst controller loaded (flux module list), run"
    say "\"flux module remove flex-burst\" there before it stops: nothing else does so now."
}

report() {
    warn_of_single_script prolog
    warn_of_single_script epilog
    warn_of_other_directory
    warn_of_closed_python
    warn_of_validator
    warn_of_burst
    burst_config=
    if $with_burst; then burst_config=$etc/flex.toml; fi
    "$python" -I "$here/missing_config.py" "$destdir$system" "$destdir$etc/imp" \
        "$validator" "$command_dir" "$system" "$burst_config" ||
        note_trouble "The configuration could not be looked at."
    case $validator in
    *,*)
        say
        say "Note: Flux takes the comma in $validator for the end of a"
        say "plugin's name. Copy that file to a place without one, and name the copy."
        ;;
    esac
}

if $dry_run; then say "Dry run: nothing is changed."; fi
if $uninstall; then
    say "Taking flux-flex away:"
    if present "$destdir$etc/modprobe/rc3.d/flux-flex.py"; then had_burst=true; fi
    remove_all
    if $had_burst; then note_loaded; fi
else
    install_all
    report
fi
if [ -n "$trouble" ]; then
    printf '\n%s%s\n' "Not everything was done:" "$trouble" >&2
    exit 1
fi
