"""Evaluation of models, during training and of finished runs."""
