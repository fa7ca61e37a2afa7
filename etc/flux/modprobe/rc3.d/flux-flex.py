# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""When an instance stops: removes the burst controller, if it is loaded.

A module in Python that is still there when the broker ends is killed, and the broker ends with 1.
"""

from flux.modprobe import task


@task("flex-burst-remove", ranks="0", before=["*"])
def remove(context):
    try:
        context.rpc("module.remove", {"name": "flex-burst"}).get()
    except FileNotFoundError:
        pass  # it was not loaded
    except OSError as error:
        print(f"flux-flex: the burst controller is not removed: {error}")  # noqa: T201
