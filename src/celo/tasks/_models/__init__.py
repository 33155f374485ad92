"""The networks that the library's tasks train, one family of networks a file, each with its task factories.

Nothing here is public: tasks are made by their names in `celo.tasks.TASKS`. Files that need Flax are imported
only when one of their tasks is made; `quadratic`, `perceptrons` and `patches` import without it.
"""
