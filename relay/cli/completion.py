"""`relay completion`, and what a shell is told of when it completes.

While a shell completes, the line belongs to its user: nothing is ever written to it, and nobody
waits for longer than a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from relay.cli.call import Call, common
from relay.cli.output import write_json

_SECONDS = 2.0
_INSTALL = {
    "bash": 'eval "$(relay completion bash)"',
    "zsh": 'eval "$(relay completion zsh)"',
    "fish": "relay completion fish | source",
}


@click.command(short_help="Completion for your shell.")
@click.argument("shell", type=click.Choice(tuple(_INSTALL)))
@common
def completion(call: Call, shell: str) -> None:
    """Print the script that has a shell complete commands, options and names of sources.

    In bash (4.4 or later), to try it or in ~/.bashrc: eval "$(relay completion bash)"

    In zsh, in ~/.zshrc after compinit: eval "$(relay completion zsh)"

    In fish, in ~/.config/fish/config.fish: relay completion fish | source
    """
    made = get_completion_class(shell)
    assert made is not None
    # Not source(), which starts a bash to look at its version.
    complete = made(click.Group(), {}, "relay", "_RELAY_COMPLETE")
    script = complete.source_template % complete.source_vars()
    if call.json:
        write_json({"shell": shell, "install": _INSTALL[shell], "script": script})
    else:
        click.echo(script)


def source_names(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The sources whose names begin so; none where the database does not answer at once."""
    data_dir = ctx.params.get("data_dir")
    # Whatever goes wrong, and whatever a library has to say of it, is no matter of this line.
    logging.disable()
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        contextlib.suppress(Exception),
    ):
        names = asyncio.run(asyncio.wait_for(_names(data_dir), _SECONDS))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return []


async def _names(data_dir: Path | None) -> list[str]:
    from relay.store import sources

    call = Call(json=True, data_dir=data_dir)
    async with call.database() as database, database.begin() as connection:
        return sorted(each.config.name for each in await sources.list_all(connection))
