"""Sources with a known best predictor, to measure the distance of a trained model from it.

After Learning Universal Predictors (arXiv 2401.14953): a model that is trained on sequences from
ever new sources of a known prior learns to predict like the Bayesian mixture over that prior. Two
priors are here. Variable-order Markov sources (``markov``), whose mixture is computed exactly by
context-tree weighting (``context_tree``); and the outputs of random short programs (``programs``)
on a small machine (``machine``), whose mixture is Solomonoff's, cut to what can be enumerated
(``mixture``).
"""
