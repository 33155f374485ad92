import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def optax_promotes_types():
    """optax's Adam and others mix number types, which the strict mode of these tests forbids."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An archive of two contestants on one task, run without interruption."""
    from small import Here, job, run

    out = tmp_path_factory.mktemp("whole")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert run([job("adam"), job("celo")], out, Here()) == []
    return out


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module on the path with an optimizer of one's own."""
    text = (
        "import optax\n\nnumber = 3\n\n"
        "def make(rate, num_steps):\n    return optax.sgd(rate, momentum=0.5)\n\n"
        "def asks(rate, num_steps):\n    return optax.adam(rate if rate > 0 else 0.0)\n"
    )
    (tmp_path / "own_optimizers.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_optimizers"


@pytest.fixture
def undrawn(monkeypatch):
    """Charts take seconds: an empty one stands for all of them, and the page is its words."""
    from celo.evaluate._report import files, write

    monkeypatch.setattr(files, "draw_all", lambda board: {"curves.svg": b"<svg/>"})
    monkeypatch.setattr(write, "page", lambda board, headline, caption: f"{headline}\n{caption}")
