"""Running: contestants on tasks, from their names to records in an archive.

Here: suites, baselines and contestants by name; training curves; trials and how rates are tuned; the pools
they run on. What a record is stands in `celo.evaluate._records`, scores in `_score`. Users import from
`celo.evaluate`.
"""
