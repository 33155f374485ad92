"""What trained weights do: the learned schedule, how far each tensor goes, the rule as a map.

Here: a short training run watched step by step, as arrays (`celo.explain`) and as a picture
(`celo.draw_explanation`). Scores of optimizers live in `celo.evaluate`.
"""
