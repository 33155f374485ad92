"""Docstrings as mkdocstrings shall show them: examples in fences, names of the library as links."""

import griffe
from reference import fence_examples, link_names


class Docstrings(griffe.Extension):
    """Prepares each docstring when it has been read."""

    def on_instance(self, *, obj, **_):
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = link_names(fence_examples(obj.docstring.value))
