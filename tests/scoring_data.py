"""Data for the tests of figures: overconfident logits, whose labels are drawn from what half of them say."""

import math

import numpy as np
import scipy.special

N, K = 2000, 6  # more than a batch of 700, and every class often


def data(seed: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overconfident logits, the labels that half of them say, and weights of which some are 0."""
    random = np.random.default_rng(seed)
    logits = scale * random.standard_normal((N, K))
    probs = scipy.special.softmax(logits / 2, axis=1)
    labels = (random.random((N, 1)) > np.cumsum(probs, axis=1)).sum(axis=1).clip(max=K - 1)
    weights = random.exponential(size=N)
    weights[::11] = 0.0
    return labels, logits, weights


def mean(values: np.ndarray, weights: np.ndarray) -> float:
    return math.fsum(values * weights) / math.fsum(weights)
