"""Text: tokenizers, corpora, their preparation, and windows of tokens for training.

``corpus`` finds documents, ``prepare`` tokenises them once into a directory, ``store`` reads
any part of it, and ``task`` makes examples. In the stored stream every document is its
end-of-document token followed by its text, so that this token is what a document begins with
as an input and what its end is as a target.
"""
