"""The data generator: cases of every skill from a seed, with held-out values for evaluation."""
