"""The command line: `kosa score`, `kosa explain`, `kosa bench`. Parses and prints; the work is elsewhere."""

import sys

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
def bench(
    cases: tuple[str, ...],
    list_cases: bool,
    quick: bool,
    rounds: int | None,
    json_path: str | None,
    markdown_path: str | None,
) -> None:
    """Time Kosa beside the bare read or copy of the same array, NumPy, SciPy, scikit-learn, torch and jax."""
    from kosa import benchmark
    from kosa.benchmark import terminal

    if list_cases:
        click.echo("\n".join(benchmark.NAMES))
        return
    try:
        terminal.bench(cases, quick=quick, rounds=rounds, json_path=json_path, markdown_path=markdown_path)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def main() -> None:
    """Entry point. Exit status 0; 2 for bad usage or bad input (one line on stderr); 1 otherwise."""
    cli(prog_name="kosa")
