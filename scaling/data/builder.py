"""The TFDS builder: documents as byte tokens in array_record files. Never imports TensorFlow.

Import this module inside functions: tensorflow-datasets takes half a second to load.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scaling.data.documents import SPLITS, Document, Split

SEPARATOR = 0  # stands before each document; byte 0 is refused in text
VOCAB_SIZE = 256


class TextTokens(tfds.core.GeneratorBasedBuilder):
    """Features: `id` (text) and `tokens` (uint8, the separator and then the document's UTF-8 bytes)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Byte tokens."}  # noqa: RUF012 - the name and type TFDS asks for
    pkg_dir_path = Path(__file__).parent  # TFDS looks for metadata beside the class
    url_infos = None  # nothing is downloaded; looking for checksums needs a package TFDS forgets to require

    def __init__(
        self,
        *,
        splits: dict[Split, list[Document]],
        wrote: Callable[[int], None] = lambda size: None,
        **options: Any,
    ) -> None:
        self._splits = splits
        self._wrote = wrote
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        # Encoded as bytes: as a list of integers the same text takes 10 times as long to write.
        tokens = tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
        features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "tokens": tokens})
        # Documents come shuffled (documents.in_order); TFDS's own shuffle is not ours to fix.
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(self._splits[split]) for split in SPLITS}

    def _generate_examples(self, documents: list[Document]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, document in enumerate(documents):
            yield number, {"id": document.id, "tokens": to_tokens(document)}
            self._wrote(len(document.text))


def to_tokens(document: Document) -> np.ndarray:
    """uint8 (bytes of the document + 1,): the separator, then the text."""
    tokens = np.empty(len(document.text) + 1, np.uint8)
    tokens[0] = SEPARATOR
    tokens[1:] = np.frombuffer(document.text, np.uint8)
    return tokens


def write(
    splits: dict[Split, list[Document]], folder: Path, wrote: Callable[[int], None] = lambda size: None
) -> None:
    """Write both splits under `folder`; `wrote` hears the bytes of each document."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself on stdout, which is ours
        TextTokens(splits=splits, wrote=wrote, data_dir=str(folder)).download_and_prepare()


def read(folder: Path, split: Split) -> np.ndarray:
    """uint8 (tokens,): all documents of a split, joined in order, read through a TFDS data source."""
    (version,) = sorted(folder.glob("text_tokens/*/dataset_info.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        source = tfds.builder_from_directory(str(version.parent)).as_data_source(split)
    return np.concatenate([example["tokens"] for example in source])
