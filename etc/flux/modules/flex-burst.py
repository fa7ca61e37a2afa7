# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""The burst controller as a broker module: `flux module load .../flex-burst.py [FLEX_TOML]`.

Flux's Python has to find flux_flex. `flux module remove flex-burst` leaves what is rented, or
drains it, as burst.on_unload of flex.toml says.
"""

import sys

# flux_flex, and what it was installed with, where this file was installed: else these are no paths.
# Last, so that Flux's own modules are found first.
sys.path += [path for path in ("@PACKAGE_DIR@", "@LIBRARY_DIR@") if path.startswith("/")]

from flux_flex.cli.burst_serve import mod_main

__all__ = ["mod_main"]
