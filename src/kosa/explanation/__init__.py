"""`kosa.explain`: the computation of a cross-entropy, step by step, every shape checked."""

from kosa.explanation.api import Explanation, ProductExplanation, explain, explain_product

__all__ = ["Explanation", "ProductExplanation", "explain", "explain_product"]
