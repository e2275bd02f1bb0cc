"""The command line: `kosa score`, `merge`, `explain`, `bench`. Parses and prints; the work is elsewhere."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    import click
except ModuleNotFoundError:  # pragma: no cover - shown by a subprocess test
    sys.exit('kosa: the command line needs the "score" extra: pip install "kosa[score]"')


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kosa")
def cli() -> None:
    """Cross-entropy, done thoroughly."""


@cli.command()
@click.option(
    "--case", "cases", multiple=True, metavar="NAME", help="Only this part; repeatable. `--list` names them."
)
@click.option("--list", "list_cases", is_flag=True, help="Print the names of the cases and stop.")
@click.option(
    "--quick", is_flag=True, help="Small arrays and few rounds: shows that it runs, proves nothing."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), help="Timings of each contestant. [default: 15, quick: 3]"
)
@click.option("--json", "json_path", metavar="PATH", help="Write every figure as JSON; `-`: to stdout.")
@click.option(
    "--markdown", "markdown_path", metavar="PATH", help="Write the tables as Markdown; `-`: to stdout."
)
@click.option(
    "--gpu", "folder", metavar="FOLDER", help="The GPU engine instead; gpu-<card>.json and .md go to FOLDER."
)
def bench(
    cases: tuple[str, ...],
    list_cases: bool,
    quick: bool,
    rounds: int | None,
    json_path: str | None,
    markdown_path: str | None,
    folder: str | None,
) -> None:
    """Time Kosa beside the bare read or copy of the same array, NumPy, SciPy, scikit-learn, torch and jax."""
    try:
        from kosa.benchmark import NAMES, terminal
    except ModuleNotFoundError:
        raise click.ClickException('bench needs the "score" extra: pip install "kosa[score]"') from None

    if list_cases:
        click.echo("\n".join(NAMES))
        return
    if folder is not None:
        _bench_gpu(folder, quick, rounds, [cases, json_path, markdown_path])
        return
    try:
        terminal.bench(cases, quick=quick, rounds=rounds, json_path=json_path, markdown_path=markdown_path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _bench_gpu(folder: str, quick: bool, rounds: int | None, others: list[Any]) -> None:
    from kosa.benchmark import gpu_report

    if any(others):
        raise click.UsageError(
            "--gpu runs all its cases and names its files itself: leave --case, --json, --markdown out"
        )
    try:
        gpu_report.bench(folder, quick=quick, rounds=rounds)
    except ValueError as error:
        click.echo(f"kosa: {error}", err=True)
        sys.exit(2)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("targets")
@click.argument("predictions")
@click.option("--probs", "kind", flag_value="probs", help="PREDICTIONS are probabilities (the default).")
@click.option("--logits", "kind", flag_value="logits", help="PREDICTIONS are logits.")
@click.option("--log-probs", "kind", flag_value="log_probs", help="PREDICTIONS are log-probabilities.")
@click.option("--dot", "kind", flag_value="dot", help="Show the matrix product of the two, cell by cell.")
@click.option("--lang", type=click.Choice(["en", "ja"]), default="en", show_default=True)
@click.option("--html", metavar="FILE", help="Write it as one HTML file, too.")
@click.option("--json", "json_path", metavar="PATH", help="Write every number as JSON; `-`: to stdout.")
def explain(
    targets: str, predictions: str, kind: str | None, lang: str, html: str | None, json_path: str | None
) -> None:
    """Show a cross-entropy step by step, from vectors to the result.

    Numbers are separated by spaces, rows by semicolons: kosa explain "0 1 0" "0.2 0.7 0.1". A single target a
    row is a class index, counted from 0.
    """
    # Unknown options are arguments here, for a row of numbers may start with a minus.
    from kosa.explanation import terminal

    try:
        terminal.run(targets, predictions, kind or "probs", lang, html, json_path)
    except (ValueError, TypeError, IndexError) as error:
        terminal.complain(error)
        sys.exit(2)


def _shown(command: Callable[..., None]) -> Callable[..., None]:
    """Options of how figures are shown, which do not change what is kept."""
    for option in (
        click.option(
            "--confidence",
            type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
            default=0.95,
            show_default=True,
            help="Of the interval of the cross-entropy.",
        ),
        click.option(
            "--bins",
            default="15",
            show_default=True,
            metavar="N",
            help="Bins of confidence; mass:N: of equal weight, not width.",
        ),
        click.option("--lang", type=click.Choice(["en", "ja"]), help="Of the report. [default: en]"),
        click.option("--report", metavar="FILE", help="Write a report with plots: one HTML page, offline."),
    ):
        command = option(command)
    return command


def _scaled(command: Callable[..., None]) -> Callable[..., None]:
    """Options of how and where the work is done, which change no figure."""
    for option in (
        click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            metavar="ROWS",
            help="Rows at a time. [default: what fits into the memory]",
        ),
        click.option(
            "--state",
            metavar="FILE",
            help="Keep the state here while it runs: after Ctrl-C the same command goes on.",
        ),
        click.option("--on", metavar="ADDRESS", help="Score on a Dask cluster: tcp://scheduler:8786."),
        click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Score by N local processes."),
        click.option(
            "--memory",
            metavar="BYTES",
            help="Take no more, over all local processes: 500MB, 2GiB. [default: 500MB each]",
        ),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--target", metavar="COLUMN", help="Labels; a list or several columns: soft targets.")
@click.option("--logits", metavar="COLUMNS", help="Predictions that are logits.")
@click.option("--probs", metavar="COLUMNS", help="Predictions that are probabilities.")
@click.option("--log-probs", metavar="COLUMNS", help="Predictions that are log-probabilities.")
@click.option(
    "--token-log-probs",
    metavar="COLUMN",
    help="Log-probability of each token of a text, alone; lists: a document a row. No --target.",
)
@click.option(
    "--documents", is_flag=True, help="A row is a document: its columns are lists, an entry a token."
)
@click.option(
    "--padding", metavar="VALUE", help="This target (or token's log-probability; nan, null) is no token."
)
@click.option("--mask", metavar="COLUMN", help="0 where there is no token.")
@click.option("--weight", metavar="COLUMN", help="One weight a row.")
@click.option("--id", "id_column", metavar="COLUMN", help="Names the worst rows; default: the row's number.")
@click.option("--classes", metavar="A,B,…", help="Names of the classes in order; @FILE: one a line.")
@click.option("--force", is_flag=True, help="Score predictions that do not look like what you say they are.")
@click.option("--json", "json_path", metavar="PATH", help="Write every figure as JSON; `-`: to stdout alone.")
@click.option("--worst", type=click.IntRange(min=0), default=5, show_default=True, help="Worst rows to show.")
@click.option("--group", metavar="COLUMN", help="Figures by group; the interval is over groups, not rows.")
@click.option(
    "--per",
    multiple=True,
    metavar="UNIT[=COLUMN|NUMBER]",
    help="Loss and perplexity by UNIT (tokens, words, bytes): counts a row, or the total; alone: each row is one.",
)
@click.option("--top-k", metavar="K[,K…]", help="How often the target is among the K most probable classes.")
@click.option("--temperature", is_flag=True, help="Look for the temperature of least loss.")
@click.option(
    "--against",
    multiple=True,
    metavar="FILE",
    help="Compare with these predictions of the same rows, row by row; repeatable.",
)
@click.option("--against-logits", metavar="COLUMNS", help="Their columns, if other than those of FILE...")
@click.option("--against-probs", metavar="COLUMNS", help="The same, where they are probabilities.")
@click.option("--against-log-probs", metavar="COLUMNS", help="The same, where they are log-probabilities.")
@click.option("--against-token-log-probs", metavar="COLUMN", help="The same, where they are of tokens.")
@_shown
@_scaled
def score(
    files: tuple[str, ...],
    target: str | None,
    logits: str | None,
    probs: str | None,
    log_probs: str | None,
    token_log_probs: str | None,
    documents: bool,
    padding: str | None,
    mask: str | None,
    weight: str | None,
    id_column: str | None,
    classes: str | None,
    force: bool,
    json_path: str | None,
    worst: int,
    group: str | None,
    per: tuple[str, ...],
    top_k: str | None,
    temperature: bool,
    against: tuple[str, ...],
    against_logits: str | None,
    against_probs: str | None,
    against_log_probs: str | None,
    against_token_log_probs: str | None,
    bins: str,
    confidence: float,
    report: str | None,
    lang: str | None,
    batch_size: int | None,
    state: str | None,
    on: str | None,
    jobs: int | None,
    memory: str | None,
) -> None:
    """Cross-entropy, perplexity, accuracy and more of predictions in files, in bounded memory.

    The FILEs (Parquet, Arrow IPC, Feather, CSV, JSON Lines, NPY, NPZ; directories of them; globs) are one data
    set. COLUMNS are a glob
    (z*), a list (a,b,c), or one column of lists; one column of numbers is a binary prediction, for class 1.
    """
    from kosa.scoring import terminal

    columns = {
        "logits": against_logits,
        "probs": against_probs,
        "log_probs": against_log_probs,
        "token_log_probs": against_token_log_probs,
    }
    others = {kind: names for kind, names in columns.items() if names is not None}
    if others and not against:
        raise click.UsageError(f"`--against-{next(iter(others)).replace('_', '-')}` needs `--against FILE`")
    with _errors():
        terminal.run_score(
            files,
            {
                "target": target,
                "logits": logits,
                "probs": probs,
                "log_probs": log_probs,
                "token_log_probs": token_log_probs,
                "mask": mask,
                "weight": weight,
                "id": id_column,
                "group": group,
            },
            classes=classes,
            force=force,
            worst=worst,
            batch_size=batch_size,
            state=state,
            on=on,
            jobs=jobs,
            memory=memory,
            json_path=json_path,
            per=_units(per, columns=True),
            top_k=None if top_k is None else _whole_numbers(top_k),
            temperature=temperature,
            documents=documents,
            padding=padding,
            against=list(against) or None,
            against_columns=others or None,
            report=report,
            lang=_lang(lang, report),
            **_view(bins, confidence),
        )


@cli.command()
@click.argument("states", nargs=-1, required=True, metavar="STATE...")
@click.option("-o", "--output", metavar="FILE", help="Keep the whole as one state.")
@click.option("--json", "json_path", metavar="PATH", help="Write every figure as JSON; `-`: to stdout alone.")
@click.option(
    "--per", multiple=True, metavar="UNIT=NUMBER", help="Loss and perplexity by UNIT: its total number."
)
@click.option(
    "--allow-overlap", is_flag=True, help="Count rows twice that two STATEs have both counted, of one file."
)
@_shown
def merge(
    states: tuple[str, ...],
    output: str | None,
    allow_overlap: bool,
    json_path: str | None,
    per: tuple[str, ...],
    bins: str,
    confidence: float,
    report: str | None,
    lang: str | None,
) -> None:
    """Figures of a whole data set from the STATEs of its parts.

    The parts may be of one run or of several, whose rows then follow each other. Nothing is read but the states.
    """
    from kosa.scoring import merging

    with _errors():
        merging.run_merge(
            states,
            output=output,
            overlapping=allow_overlap,
            json_path=json_path,
            totals=_units(per, columns=False),
            report=report,
            lang=_lang(lang, report),
            **_view(bins, confidence),
        )


def _view(bins: str, confidence: float) -> dict[str, Any]:
    """How the figures are wanted: `15`, or `mass:15` for bins of equal weight."""
    count = bins.removeprefix("mass:")
    if not count.isdecimal():
        raise click.UsageError(
            f"`--bins` is {bins!r}; expected a whole number, or mass: and one, as in mass:15"
        )
    return {"bins": int(count), "equal_mass": count != bins, "confidence": confidence}


def _lang(lang: str | None, report: str | None) -> str:
    """The language of the report, which without one would be of nothing."""
    if lang is not None and report is None:
        raise click.UsageError("`--lang` is the report's language: it needs `--report FILE`")
    return lang or "en"


def _units(per: tuple[str, ...], columns: bool) -> dict[str, Any]:
    """UNIT, UNIT=NUMBER and, where there are columns, UNIT=COLUMN."""
    found: dict[str, Any] = {}
    for text in per:
        unit, given, count = text.partition("=")
        if not unit or unit in found or (given and not count):
            raise click.UsageError(
                f"`--per` {text!r}; expected each unit once, as UNIT=NUMBER, or UNIT alone"
            )
        try:
            found[unit] = float(count) if given else None
        except ValueError:
            if not columns:
                raise click.UsageError(f"`--per` {text!r}: {count!r} is no number") from None
            found[unit] = count
    return found


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"`--top-k` is {text!r}; expected whole numbers, as in 5 or 1,5,10") from None


@contextmanager
def _errors() -> Iterator[None]:
    """Errors of data and files as one line each."""
    from kosa.scoring.errors import InputError

    try:
        yield
    except BrokenPipeError:
        raise
    except (InputError, OSError) as error:
        from kosa.scoring.output import message

        raise click.UsageError(message(error)) from error
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt as error:
        click.echo(f"kosa: {str(error) or 'interrupted; nothing was written'}", err=True)
        sys.exit(130)


def main() -> None:
    """Entry point. Exit status 0; 2 for bad usage or bad input (one line on stderr); 1 otherwise."""
    for stream in (sys.stdout, sys.stderr):
        # A console that is not UTF-8 shows \uXXXX for what it cannot write, and does not end the program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(cli(sys.argv[1:] or ["--help"], prog_name="kosa", standalone_mode=False))
    except click.ClickException as error:
        click.echo(f"kosa: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
