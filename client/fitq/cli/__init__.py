"""The command `fitq`: a group that imports a command only when it is called, so that `fitq --help` stays instant."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from fitq.cli.exit_codes import INTERRUPTED, MEANINGS, exit_code
from fitq.cli.next_steps import text_of
from fitq_shared import __version__
from fitq_shared.errors import FitqError

#: Command -> its line in the list of commands; its module is `fitq.cli.<command>` and holds it as `command`.
COMMANDS = {
    "run": "Fit jobs on this machine, without a server: one command from a file to results.",
    "submit": "Hand jobs to the fleet and print the submission's id.",
    "status": "Show how far a submission is.",
    "wait": "Wait until a submission is finished.",
    "watch": "Follow a submission live.",
    "results": "Write the results or loss traces of a submission.",
    "ls": "List submissions, newest first.",
    "retry": "Fit some jobs of a submission again; results stay until they are replaced.",
    "cancel": "End submissions early; what is fitted stays.",
    "delete": "Remove submissions and all that is stored for them.",
    "gc": "Remove what killed processes have left behind.",
}


class LazyGroup(click.Group):
    """Loads a command at its first use; turns fitq's errors into one message and an exit code."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"fitq.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except FitqError as error:
            click.echo(f"Error: {text_of(error)}", err=True)
            context.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            context.exit(INTERRUPTED)


_HELP = """Fit many polynomials at once on a queue of GPU workers.

`fitq run jobs.jsonl` needs nothing else. With a Redis and `fitq-worker start` somewhere, `fitq submit` hands the same jobs
to that fleet; the environment variable FITQ_REDIS_URL says where the Redis is.

\b
Exit codes:
"""
_CODES = "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())


@click.group(
    cls=LazyGroup,
    help=_HELP + _CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="fitq")
def main() -> None:
    """The command; its help is put together above."""
