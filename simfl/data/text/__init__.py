"""Text: records of files, templates, tokenizers, and the examples of a language model."""

from simfl.data.text.records import Records, read_records
from simfl.data.text.tokenizers import Bytes, Characters, Library, Tokenizer, read_tokenizer

__all__ = [
    "Bytes",
    "Characters",
    "Library",
    "Records",
    "Tokenizer",
    "read_records",
    "read_tokenizer",
]
