#!/bin/sh
# Takes away what install-scripts.sh put in place, and nothing else.
#
#   scripts/uninstall-scripts.sh [--dry-run] [SYSTEM_DIR [FLUX_PREFIX]]

here=$(dirname -- "$(readlink -f -- "$0")")
exec "$here/install-scripts.sh" --uninstall "$@"
