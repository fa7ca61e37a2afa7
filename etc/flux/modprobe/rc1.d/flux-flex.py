# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""When an instance starts: loads the burst controller, where the configuration has a table

    [flex-burst]
    config = "/etc/flux/flex.toml"      # optional

Other instances, such as those of users, are left alone. No instance fails to start for it.
"""

from pathlib import Path

from flux.modprobe import task

MODULE = Path(__file__).resolve().parents[2] / "modules" / "flex-burst.py"


@task(
    "flex-burst-load",
    ranks="0",
    after=["sched", "job-list", "job-info", "resource"],
    needs_config=["flex-burst"],
)
def load(context):
    config = context.conf_get("flex-burst", {}).get("config")
    payload = {"path": str(MODULE), "args": [config] if config else []}
    try:
        context.rpc("module.load", payload).get()
    except OSError as error:
        print(f"flux-flex: the burst controller is not loaded: {error}")  # noqa: T201
