"""Documents, and the three rules that make a corpus the same everywhere: split, order, fingerprint.

Every rule is a pure function of ids, keys and text, so that the same text gives the same training
and validation tokens on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Buffer = bytes | memoryview

OVERSHOOT = 1.25  # a validation split may exceed its share by a quarter, never by a whole long document


@dataclass(frozen=True)
class Document:
    """One text, UTF-8. Documents of one `key` (by default the id) fall into the same split."""

    id: str
    text: Buffer
    key: str = ""

    @property
    def split_key(self) -> str:
        return self.key or self.id


def split_documents(documents: Sequence[Document], fraction: float) -> dict[Split, list[Document]]:
    """Both splits; validation gets at least one document, never all, and about `fraction` of the bytes.

    Keys are taken in the order of their hash until the share is reached; a key whose documents would
    carry it beyond 1.25 times the share is passed over. When every key is that long, the shortest one
    is taken. Raises ValueError when there are fewer than two keys: nothing to split.
    """
    chosen = _validation_keys(documents, fraction)
    return {
        "train": [document for document in documents if document.split_key not in chosen],
        "validation": [document for document in documents if document.split_key in chosen],
    }


def _validation_keys(documents: Sequence[Document], fraction: float) -> set[str]:
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.split_key] = sizes.get(document.split_key, 0) + len(document.text)
    if len(sizes) < 2:
        raise ValueError("fewer than two documents: nothing to split")
    share = fraction * sum(sizes.values())
    chosen: set[str] = set()
    held = 0
    for key in sorted(sizes, key=lambda k: _hash("split", k)):
        if held >= share:
            break
        if held + sizes[key] <= OVERSHOOT * share and len(chosen) < len(sizes) - 1:
            chosen.add(key)
            held += sizes[key]
    return chosen or {min(sizes, key=lambda k: (sizes[k], _hash("split", k)))}


def in_order(documents: Sequence[Document]) -> list[Document]:
    """Shuffled by a hash of the id, so that any stretch of the token stream is a mix of sources."""
    return sorted(documents, key=lambda document: _hash("order", document.id))


def fingerprint(splits: dict[Split, list[Document]]) -> str:
    """16 hex digits of the SHA-256 over split, id and text of every document in its order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for document in splits[split]:
            # Lengths stand before contents, so that no two corpora give the same byte stream.
            name = document.id.encode()
            digest.update(f"{split} {len(name)} {len(document.text)} ".encode())
            digest.update(name)
            digest.update(document.text)
    return digest.hexdigest()[:16]


def cut(text: str, limit: int) -> list[str]:
    """Pieces of at most about `limit` characters, cut between paragraphs, else lines, else words.

    A text without a break within the limit is cut at the limit. The pieces joined give the text back.
    """
    if len(text) <= limit:
        return [text]
    pieces = []
    start = 0
    while len(text) - start > limit:
        end = _last_break(text, start, start + limit)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _last_break(text: str, start: int, stop: int) -> int:
    """Where to cut `text[start:stop]`: after its last paragraph, line or word of the second half."""
    middle = start + (stop - start) // 2
    for gap in (r"\n\s*\n", r"\n", r"\s"):
        ends = [found.end() for found in re.compile(gap).finditer(text, middle, stop)]
        if ends:
            return ends[-1]
    return stop


def _hash(purpose: str, key: str) -> bytes:
    return hashlib.sha256(f"{purpose}:{key}".encode()).digest()
