"""Text whose entropy is known: the random hierarchy model of Cagnetta et al. 2024 (arXiv:2307.02129).

A sample is grown from one of `symbols` roots: at each of `levels` levels every symbol becomes, by one of its
`rules` productions, two symbols of the next level. The k-th production of a symbol is drawn with a
probability p_k ~ k^-zipf (Cagnetta et al. 2025, arXiv:2505.07067): evenly at 0, when a level is learnt all at
once, in a step; above 1 rules are learnt one after the other, frequent ones first, and losses fall smoothly.
No production is shared, so a sample has one parse and its entropy is that of the choices: ln(symbols) +
H(p) (2^levels - 1) nats. Samples are written as letters, a line each, so a token more each (the line's end or
the separator of a document) that is certain.
A model that sees a sample from its beginning can come as near to the rate as it is able, and no nearer: E.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scaling.data.documents import Document
from scaling.data.text import Prepared, write_prepared
from scaling.errors import UserError

LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DOCUMENT = 1_000  # samples of a document: few files, and windows of whole samples stay whole


@dataclass(frozen=True)
class Hierarchy:
    """Productions drawn by `seed`. Raises UserError where some would have to be shared."""

    symbols: int = 16
    rules: int = 3
    levels: int = 3
    seed: int = 0
    zipf: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= len(LETTERS):
            raise UserError(f"symbols is {self.symbols}; give 2 to {len(LETTERS)}.")
        if not 1 <= self.rules <= self.symbols:
            raise UserError(
                f"rules is {self.rules}; give 1 to {self.symbols}: {self.symbols} symbols have "
                f"{self.symbols**2} pairs to share out."
            )
        if not 1 <= self.levels <= 10:
            raise UserError(f"levels is {self.levels}; give 1 to 10.")
        if not 0 <= self.zipf <= 10:
            raise UserError(f"zipf is {self.zipf:g}; give an exponent of 0 to 10.")

    @property
    def sample_tokens(self) -> int:
        """Tokens of a sample, its line's end among them: windows of a multiple of them cut none."""
        return 2**self.levels + 1

    @property
    def entropy(self) -> float:
        """Entropy rate of the text, nats per token."""
        p_M = self.frequencies
        of_rule = -float((p_M * np.log(p_M)).sum())
        return (math.log(self.symbols) + of_rule * (2**self.levels - 1)) / self.sample_tokens

    @property
    def frequencies(self) -> np.ndarray:
        """How often each production of a symbol is drawn, (rules,), summing to 1."""
        weight_M = np.arange(1, self.rules + 1) ** -float(self.zipf)
        return np.asarray(weight_M / weight_M.sum())

    def samples(self, count: int, seed: int) -> np.ndarray:
        """Letters, uint8 (count, 2^levels)."""
        draw = np.random.default_rng([self.seed, 1, seed])
        x_N1 = draw.integers(self.symbols, size=(count, 1))
        for rule_VMS in self._productions():
            drawn = draw.choice(self.rules, size=x_N1.shape, p=self.frequencies)
            x_N1 = rule_VMS[x_N1, drawn].reshape(count, -1)
        return np.frombuffer(LETTERS, np.uint8)[x_N1]

    def _productions(self) -> Iterator[np.ndarray]:
        """Of each level: the pair that each production of each symbol gives, (symbols, rules, 2)."""
        v, m = self.symbols, self.rules
        draw = np.random.default_rng([self.seed, 0])
        for _ in range(self.levels):
            pairs = draw.permutation(v * v)[: v * m]
            yield np.stack([pairs // v, pairs % v], -1).reshape(v, m, 2)

    def documents(self, first: int, count: int) -> Iterator[Document]:
        """Documents `first` to `first + count`, the same whatever else is drawn."""
        for number in range(first, first + count):
            letters_NL = self.samples(DOCUMENT, number)
            line_end = np.full((DOCUMENT, 1), ord("\n"), np.uint8)
            text = np.concatenate([letters_NL, line_end], axis=1).tobytes()
            yield Document(f"{number:08d}", text[:-1])  # the separator of the next document stands for it


def write_hierarchy(source: Hierarchy, out: str | Path, tokens: float, val_tokens: float = 3e5) -> Prepared:
    """A prepared folder of at least so many tokens. Raises UserError for numbers that are not positive."""
    for name, value in (("tokens", tokens), ("val_tokens", val_tokens)):
        if not 0 < value < 1e12:
            raise UserError(f"{name} is {value:g}; give a positive number of tokens, below 1e12.")
    of_document = DOCUMENT * source.sample_tokens
    train, held = (math.ceil(value / of_document) for value in (tokens, val_tokens))
    what = ", ".join(f"{name} {value:g}" for name, value in asdict(source).items())
    return write_prepared(
        {"train": source.documents(held, train), "validation": source.documents(0, held)},
        Path(out),
        name=f"hierarchy-{source.levels}",
        source=f"random hierarchy model ({what}): {source.entropy:.6f} nats per token",
    )
