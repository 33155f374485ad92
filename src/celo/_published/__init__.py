"""Weights as others publish them: where every number of a published file belongs in our θ.

Here: `layout`, what a table of pieces can do and the msgpack form of files, and one file for each family of
architectures with its table. The function that users call, and the list of all tables, are in `celo.convert`.
"""
