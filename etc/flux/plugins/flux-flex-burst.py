# Installed by flux-flex. scripts/install-scripts.sh replaces this file: keep changes elsewhere.
"""The option --burst of flux submit, run, batch, alloc and bulksubmit.

Flux loads it from the folders of FLUX_CLI_PLUGINPATH, and from cli/plugins in its own folders. It
runs in Flux's own Python, and needs nothing of flux-flex.
"""

from flux.cli.plugin import CLIPlugin


class FlexBurst(CLIPlugin):
    """--burst: nodes may be rented for this job if it would wait for long.

    The job is submitted held, so that no scheduler refuses it for hosts that are not there yet.
    flux-flex's burst controller lets it go when its nodes are up, or when it starts here soon. It
    needs a time limit (-t). `flux jobs -o "{id} {user.flex.burst}"` shows what was decided.

    --burst=best-effort: the job also takes the nodes that have come when time is up.

    With another --urgency than 16, the default, the job is not held: it may burst, and else waits
    as jobs do.
    `flux job urgency JOBID default` lets a held job go.
    """

    def __init__(self, prog):
        super().__init__(prog, prefix="")
        self.add_option(
            "--burst",
            action="store_true",
            dest="flex_burst",
            help="Rent nodes for this job if it would wait for long",
        )
        # An option of its own: with nargs="?" the job's command would be taken for the value.
        self.add_option(
            "--burst=best-effort",
            action="store_true",
            dest="flex_burst_best_effort",
            help="The same, and start with fewer nodes if not all come",
        )

    def preinit(self, args):
        # bulksubmit comes here once for each job, with what it made of args before.
        if _asked(args) and args.urgency in ("16", "default"):
            args.urgency = "hold"
            args.flex_burst_held = True

    def modify_jobspec(self, args, jobspec):
        if not _asked(args):
            return
        best_effort = args.flex_burst_best_effort
        jobspec.setattr("attributes.user.burstable", "best-effort" if best_effort else True)
        if getattr(args, "flex_burst_held", False):
            # It tells the controller that the hold is its own to end, and not a person's.
            jobspec.setattr("attributes.user.flex.held", True)


def _asked(args):
    # flux.job.Jobspec.apply_options comes here, too, with less than a command line.
    return getattr(args, "flex_burst", False) or getattr(args, "flex_burst_best_effort", False)
