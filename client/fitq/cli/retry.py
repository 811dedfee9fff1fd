"""fitq retry"""

from __future__ import annotations

from typing import Any

import click

from fitq.cli import options


@click.command(short_help="Fit some jobs of a submission again; results stay until they are replaced.")
@options.submission_argument
@options.input_options
@click.option("--failed", is_flag=True, help="Jobs that failed: diverged, degenerate, invalid, error. The default.")
@click.option("--status", "statuses", multiple=True, metavar="STATUS", help="Jobs of this status; repeatable.")
@click.option("--id", "ids", multiple=True, metavar="JOB", help="The job with this id, whatever its status; repeatable.")
@options.client_options
@options.json_option
def command(
    submission: str,
    failed: bool,
    statuses: tuple[str, ...],
    ids: tuple[str, ...],
    url: str | None,
    as_json: bool,
    **inputs: Any,
) -> None:
    """Fit some jobs of the submission ID again, under the same ids, with the changes of --set.

    The results that there are stay until the new ones take their place; `fitq results ID --id JOB --history` shows both.
    Jobs that failed or stalled are kept for this. Others, such as those of --status max_steps, are read from INPUT once
    more, the input of the submission with the options of `fitq submit`; jobs are matched by position and id.

    A job that is being retried already is left alone, so that a command that was interrupted can be repeated. `fitq wait`
    and `fitq watch` follow a retry, and `fitq cancel` ends it.
    """
    from fitq.cli.output import document_of, line_of, print_json
    from fitq_shared.jobs.schemas import FAILED

    if ids and (failed or statuses):
        raise click.UsageError("--id names jobs whatever their status; it does not go with --failed or --status")
    has_input = inputs["input"] is not None or inputs["polynomial"] is not None
    jobs, changes = (options.jobs_from(inputs).jobs, {}) if has_input else (None, options.changes_from(inputs))
    found = options.client(url).submission(submission)
    wanted = (*FAILED, *statuses) if failed else statuses or None
    retried = found.retry(wanted, ids=ids or None, jobs=jobs, changes=changes)
    manifest = found.status()
    if as_json:
        print_json({**document_of(manifest), "retried": retried.jobs, "retried_before": retried.running})
        return
    click.echo(f"{manifest.id}  {line_of(manifest)}")
    if not any(retried):
        click.echo("nothing to retry", err=True)
        return
    already = f", {retried.running:,} were being retried already" if retried.running else ""
    click.echo(f"{retried.jobs:,} {'job is' if retried.jobs == 1 else 'jobs are'} fitted again{already}; next:", err=True)
    click.echo(f"  fitq watch {manifest.id}", err=True)
