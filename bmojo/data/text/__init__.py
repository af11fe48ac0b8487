"""Text: tokenizers, corpora, their preparation, and windows of tokens for training.

``corpus`` finds documents, ``prepare`` tokenises them once into a directory, ``store`` reads
any part of it, and ``task`` makes examples. In the stored stream every document is its
end-of-document token followed by its text: the token begins a document in the inputs, and is
the target at the end of the one before.
"""
