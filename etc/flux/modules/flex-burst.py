# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""The burst controller as a broker module: `flux module load .../flex-burst.py [FLEX_TOML]`.

Flux's Python has to find flux_flex. `flux module remove flex-burst` leaves what is rented, or
drains it, as burst.on_unload of flex.toml says.
"""

import sys

# flux_flex, and what it was installed with, where this file was installed: else these are no paths.
# Last, so that Flux's own modules are found first.
sys.path += [path for path in ("@PACKAGE_DIR@", "@LIBRARY_DIR@") if path.startswith("/")]

try:
    from flux_flex.cli.burst_serve import mod_main
except ImportError as error:
    WHY = (
        f"{sys.executable} cannot import flux_flex: {error}. Start the broker with PYTHONPATH,"
        " or load what scripts/install-scripts.sh --burst installs: see docs/bursting.md"
    )

    if __name__ == "__main__":  # so install-scripts.sh asks whether it would load
        sys.exit(WHY)

    # Flux shows a traceback of an error above, and one line of an error in here.
    def mod_main(*_):
        raise ValueError(WHY)


__all__ = ["mod_main"]
