"""Sources with a known best predictor (Learning Universal Predictors, arXiv 2401.14953).

Variable-order Markov sources (``markov``), whose Bayesian mixture is context-tree weighting, and
outputs of random short programs (``programs``) on a small machine (``machine``), whose mixture is
Solomonoff's, cut to the programs that can be enumerated.
"""
