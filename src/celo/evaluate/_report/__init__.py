"""A leaderboard for people: tables as text, one HTML page, and charts as PNG and SVG files.

`write.write_report` writes them all. Scores are worked out in `_score`, and what a terminal shows in
`celo.cli`.
"""
