"""The burst controller as a broker module: `flux module load .../flex-burst.py [FLEX_TOML]`.

Flux's Python has to find flux_flex. `flux module remove flex-burst` leaves what is rented, or
drains it, as burst.on_unload of flex.toml says.
"""

from flux_flex.cli.burst_serve import mod_main

__all__ = ["mod_main"]
