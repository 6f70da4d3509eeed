"""The command ``mogul``: it reads arguments, calls the library and prints; it does no arithmetic.

Nothing heavy is imported before a command runs, so that ``mogul --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mogul.cli import detect, fit, plot, regress, sample, score, show
from mogul.cli._messages import note_warnings, say, sentence

__all__ = ["main"]

_BAD_INPUT = 2
_INTERRUPTED = 130
"""128 and the number of the signal that Ctrl-C sends, as shells count."""

app = typer.Typer(
    name="mogul",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (fit, show, score, sample, plot):
    app.command()(getattr(_command, _command.__name__.rpartition(".")[2]))
app.add_typer(regress.app, name="regress")
app.add_typer(detect.app, name="detect")


@app.callback(invoke_without_command=True)
def _mogul(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Mixtures of Gaussians: fit one to a table, look at it, score rows, sample and plot.

    \b
    Example, from a table to a picture:
      mogul fit cars.csv --components 1-6 --covariance all --out cars.safetensors
      mogul show cars.safetensors
      mogul score cars.safetensors new_cars.csv --out scores.parquet
      mogul plot cars.safetensors cars.csv --out cars.png

    \b
    Or predict the distribution of a column from others:
      mogul regress fit cars.csv --target price --out price.safetensors
      mogul regress predict price.safetensors new_cars.csv --interval 0.9

    \b
    Or find the rows that are unlike the others, and why:
      mogul detect fit cars.csv --out alarm.safetensors
      mogul detect score alarm.safetensors new_cars.csv --fdr 0.05

    Tables are .csv, .tsv, .csv.gz, .parquet or .arrow files; CSV files have a row of names first.
    """  # noqa: D301 - the escape tells typer to keep the lines
    if version:
        from mogul import __version__

        print(f"mogul {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 for success, 2 after one sentence on standard error for bad input, 130 for Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = typer.main.get_command(app)
    try:
        with note_warnings():
            code = command.main(args=given, prog_name="mogul", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise  # a defect of mogul, whose traceback is wanted
        say(said)
        return _BAD_INPUT
    if code == _INTERRUPTED:
        say("Interrupted; nothing was written.")
    return code if isinstance(code, int) else 0


def _reader_gone() -> int:
    """What was printed went to a program, such as ``head``, that has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
    return 1
