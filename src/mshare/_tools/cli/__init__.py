"""The command line: one file per command, each with a `command` function, its help, and `EXAMPLES`.

A command with subcommands has, instead of `command`, its help in `HELP` and their functions by name in `SUBCOMMANDS`.
To add a command: write `cli/NAME.py` and add NAME to `COMMANDS`. A command prints its result (`_console`), returns its
exit code or None for 0, and lets errors pass: `dispatch` turns them into a message and the code that fits (`_exits`).

May depend on: _complete, _exits, mshare, typer. Only `__main__` depends on this package.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import typer

from . import _complete, _exits

COMMANDS = (
    "create",
    "ls",
    "stat",
    "cp",
    "rm",
    "gc",
    "scan",
    "top",
    "run",
    "collapse",
    "report",
    "exporter",
    "plan",
    "doctor",
    "demo",
    "module",
    "lab",
)
"""Their files, in the order in which `mshare --help` lists them. typer lists commands with subcommands last."""

_COMPLETION = "_MSHARE_COMPLETE"


def _version(wanted: bool) -> None:
    if wanted:
        from ... import __version__

        print(f"mshare {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it and exit."),
) -> None:
    """Named shared-memory regions that outlive their creator."""


def make_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command line with these of the `COMMANDS`. Fact: `mshare ls` took 600 ms with all of them, 470 with
    its own. Decision: `dispatch` asks for the one that it needs."""
    app = _typer()
    app.callback(epilog=_exits.epilog())(_root)
    for name in commands:
        each = import_module(f".{name}", __name__)
        if hasattr(each, "SUBCOMMANDS"):
            app.add_typer(_group(name, each), name=name, help=each.HELP, epilog=_examples(each.EXAMPLES))
        else:
            app.command(name, epilog=_examples(each.EXAMPLES), context_settings=getattr(each, "CONTEXT", None))(
                each.command
            )
    return app


def _typer() -> typer.Typer:
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )


def _group(name: str, command: ModuleType) -> typer.Typer:
    """Return the command `name` with its subcommands. A subcommand's help has the examples that call the subcommand."""
    group = _typer()
    group.callback()(lambda: None)  # without a callback, typer makes a single subcommand the command itself
    for each, function in command.SUBCOMMANDS.items():
        lines = [line for line in command.EXAMPLES.strip().splitlines() if f"mshare {name} {each}" in line]
        group.command(each, epilog=_examples("\n".join(lines)))(function)
    return group


def _examples(lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines.strip().splitlines())


def dispatch(argv: Sequence[str], begin: Callable[[], object] = bool) -> int:
    """Run one command and return its exit code. Errors go to stderr, as JSON if `--json` was given. `begin` is called
    when the command line is understood and the work begins."""
    try:
        return _run(argv, begin)
    except KeyboardInterrupt:
        return _exits.INTERRUPTED


def _run(argv: Sequence[str], begin: Callable[[], object]) -> int:
    if _COMPLETION in os.environ:  # the shell asks; it ends the process itself
        _complete.set_cut_prefix_aside(os.environ)
        make_app()(prog_name="mshare")
    app = make_app(argv[:1] if argv and argv[0] in COMMANDS else COMMANDS)
    if isinstance(sys.stdout, io.TextIOWrapper):  # where stdout is ASCII, escape what does not fit instead of failing
        sys.stdout.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    as_json = "--json" in argv[: argv.index("--") if "--" in argv else None]  # what follows is another program's
    try:
        try:
            with command.make_context("mshare", list(argv) or ["--help"]) as context:
                begin()
                code = command.invoke(context) or 0
        except typer.Exit as end:
            code = end.exit_code
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, typer.Abort):
        return _exits.INTERRUPTED
    except BrokenPipeError:
        return _exits.BROKEN_PIPE
    except _exits.UsageError as error:
        return _exits.fail(error, as_json=as_json)
    except OSError as error:  # the world's fault; anything else is a bug of ours and shows a traceback
        return _exits.fail(error, as_json=as_json)
    finally:
        _forget_unwritten()


def _forget_unwritten() -> None:
    """Where stdout takes no more, point it to /dev/null: Python would complain when it flushes it at the end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
