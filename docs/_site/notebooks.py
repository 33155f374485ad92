"""Notebooks: shown as pages of the site, and run, so that their outputs are true.

`python docs/_site/notebooks.py [NOTEBOOK …]` runs them and keeps the outputs. Each cell runs as in Jupyter,
but without a kernel: what it prints, the value of its last line and the figures of pyplot are its outputs.
"""

import ast
import base64
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
DPI = 72  # notebooks stay small


def pages():
    """{uri: Markdown} of all notebooks."""
    found = {}
    for path in sorted(FOLDER.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        link = f"\n\n[Download this notebook]({path.name})\n"
        first, *rest = [_cell(cell) for cell in cells]
        found[f"notebooks/{path.stem}.md"] = "\n\n".join([first + link, *rest]) + "\n"
    return found


def _cell(cell):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])])


def _output(output):
    if "text" in output:
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def run(notebook, folder):
    """Runs all code cells in `folder`, putting their outputs into the notebook, a dict as read from JSON."""
    import matplotlib

    matplotlib.use("agg")
    names, count = {"__name__": "__main__"}, 0
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    count += 1
                    outputs = _run_cell("".join(cell["source"]), names, count)
                    cell |= {"execution_count": count, "outputs": outputs}
    finally:
        sys.path.remove(str(folder))


def _run_cell(source, names, count):
    """The outputs of one cell."""
    if source.startswith("%%writefile "):
        first, _, body = source.partition("\n")
        path = first.split()[1]
        Path(path).write_text(body + "\n", encoding="utf-8")
        return [_stream(f"Writing {path}\n")]
    tree, printed, value = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs = [_stream(printed.getvalue())] if printed.getvalue() else []
    if value is not None and not source.rstrip().endswith(";"):
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append(
            {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}
        )
    return outputs + list(_figures())


def _figures():
    """What pyplot holds open, as Jupyter shows it at the end of a cell."""
    from matplotlib import pyplot

    for number in pyplot.get_fignums():
        buffer = io.BytesIO()
        pyplot.figure(number).savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
        data = {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        yield {"output_type": "display_data", "metadata": {}, "data": data}
    pyplot.close("all")


def _stream(text):
    return {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}


def main():
    """Runs the notebooks that were named, or all."""
    for path in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, Path(folder))
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
