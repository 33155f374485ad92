"""Scoring: from records to numbers, NumPy only.

Here: scores of one curve (`metrics`, `time_to_target`), of many (`aggregate`), and the `leaderboard` of all
contestants. How records are made is in `_run`, how a leaderboard is shown in `_report`. Users import from
`celo.evaluate`.
"""
