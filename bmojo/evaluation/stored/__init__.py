"""What a store outside the model is good for: needles, drift, reading twice."""
