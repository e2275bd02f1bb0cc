"""The command line: `kosa score`, `kosa explain`, `kosa bench`. Parses and prints; the work is done elsewhere."""

import sys

try:
    import click
except ModuleNotFoundError:  # pragma: no cover - shown by a subprocess test
    sys.exit('kosa: the command line needs the "score" extra: pip install "kosa[score]"')


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kosa")
def cli() -> None:
    """Cross-entropy, done thoroughly."""


def main() -> None:
    """Entry point. Exit status 0; 2 for bad usage or bad input (one line on stderr); 1 otherwise."""
    cli(prog_name="kosa")
