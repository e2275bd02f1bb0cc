"""The report of `kosa score`: one offline page, in English and Japanese, drawn from aggregates."""

from kosa.scoring.report.page import document, fragment, write
from kosa.scoring.report.words import LANGS, Lang

__all__ = ["LANGS", "Lang", "document", "fragment", "write"]
