"""Programs that solve the synthetic tasks from the inputs alone, each written from its text.

A solver returns the targets that it expects, -1 where it expects no question.
"""

import numpy as np


def noisy_mqar(config, inputs):
    content = config.vocab_size - config.noise_vocab
    known, targets = {}, np.full(inputs.shape, -1)
    for place, token in enumerate(inputs.tolist()):
        if 1 <= token < content // 2:
            targets[place] = known.get(token, -1)
            known[token] = inputs[place + 1]
    return targets


def fuzzy_mqar(config, inputs):
    half = config.vocab_size // 2
    known, targets = {}, np.full(inputs.shape, -1)
    key, value, answer = (), (), ()
    for place, token in enumerate([*inputs.tolist(), 0]):
        if token >= half:
            value += (token,)
        elif value:
            known[key] = value
            key, value = (), ()
        if 1 <= token < half:
            key += (token,)
        ends = place + 1 < len(inputs) and inputs[place + 1] >= half
        if ends and token < half:
            answer = known.get(key, ())
        if ends and len(value) < len(answer):
            targets[place] = answer[len(value)]
    return targets


def induction_heads(config, inputs):
    targets = np.full(inputs.shape, -1)
    targets[-1] = inputs[1 + inputs.tolist().index(inputs[-1])]
    return targets


def selective_copying(config, inputs):
    targets = np.full(inputs.shape, -1)
    separator = inputs.tolist().index(config.noise_vocab)
    data = inputs[:separator][inputs[:separator] > config.noise_vocab]
    targets[separator + 1 :] = data
    return targets


def compression(config, inputs):
    targets = np.full(inputs.shape, -1)
    queries = inputs >= config.data_vocab + 2
    targets[queries] = inputs[inputs[queries] - config.data_vocab - 2]
    return targets


def memorization(config, inputs):
    """Knows the dictionary from training examples, seen under another seed."""
    known = {}
    for index in range(50):
        example = config.source(12345, "train")[index]
        known |= dict(zip(example["inputs"][0::2], example["targets"][1::2], strict=True))
    targets = np.full(inputs.shape, -1)
    targets[1::2] = [known[key] for key in inputs[0::2]]
    return targets


def in_context_regression(config, inputs):
    """Least squares on the middles of bins, which cannot always tell the bin of y."""
    width = config.dimensions + 1
    number = inputs.tolist().index(0) // width
    rows = inputs[: (number + config.queries) * width].reshape(-1, width) - 1
    shown, asked = rows[:number], rows[number:]
    x, y = config.middle(shown[:, :-1]), config.middle(shown[:, -1] - config.bins)
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    targets = np.full(inputs.shape, -1)
    answers = 1 + config.bins + config.quantise(config.middle(asked[:, :-1]) @ weights)
    targets[number * width + width - 2 : rows.size : width] = answers
    return targets
