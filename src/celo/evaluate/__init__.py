"""Measuring optimizers, learned and hand-made: curves, baselines, scores, races and their reports."""
