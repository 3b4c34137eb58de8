"""New words: tokens whose rows are a small parameter of their own, laid over a vocabulary that does not move."""

from holdfast.vocabulary.extend import Extension, TokenExtender, extend
from holdfast.vocabulary.index import Index, read_index
from holdfast.vocabulary.initialise import Known, initialisers
from holdfast.vocabulary.rows import as_before, embedding_of, fold, is_tied, lay, new_rows
from holdfast.vocabulary.stored import lay_stored, write_rows

__all__ = [
    "Extension",
    "Index",
    "Known",
    "TokenExtender",
    "as_before",
    "embedding_of",
    "extend",
    "fold",
    "initialisers",
    "is_tied",
    "lay",
    "lay_stored",
    "new_rows",
    "read_index",
    "write_rows",
]
