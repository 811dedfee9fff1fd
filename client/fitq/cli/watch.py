"""fitq watch"""

from __future__ import annotations

import click

from fitq.cli import options
from fitq.cli.exit_codes import INTERRUPTED, exit_code_of_submission


@click.command(short_help="Follow a submission live.")
@options.submission_argument
@options.client_options
@options.json_option
@click.pass_context
def command(context: click.Context, submission: str, url: str | None, as_json: bool) -> None:
    """Follow the submission ID until it is finished.

    Ctrl-C only ends the watching, never the fits. Where standard output is no terminal, plain lines are printed; with
    --json, one document a line.
    """
    from rich.console import Console

    from fitq.cli.output import document_of, follow, print_json

    followed = options.client(url).submission(submission)
    try:
        if as_json:
            for manifest in followed.progress():
                print_json(document_of(manifest))
        else:
            manifest = follow(followed.progress(), Console())
    except KeyboardInterrupt:
        click.echo(f"\nstopped watching; the fits go on. Come back with: fitq watch {submission}", err=True)
        context.exit(INTERRUPTED)
    context.exit(exit_code_of_submission(manifest))
