import functools

import pytest
import synthetic


@pytest.fixture(scope="session")
def small():
    """Records of two tasks and four contestants; momentum has diverged on all seeds of one."""
    tasks, names = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")
    return [synthetic.record(task, name) for task in tasks for name in names]


@pytest.fixture(scope="session")
def board(small):
    """Their leaderboard."""
    from celo.evaluate._score.leaderboard import leaderboard

    return leaderboard(small)


@pytest.fixture(autouse=True, scope="session")
def one_bundle():
    """The JavaScript of charts, which is the same in every page, is put together once."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            import vl_convert
        except ImportError:
            pass
        else:
            patch.setattr(vl_convert, "javascript_bundle", functools.cache(vl_convert.javascript_bundle))
        yield


@pytest.fixture(scope="session")
def drawn(board):
    """Its charts as files, name -> bytes."""
    pytest.importorskip("altair", reason="charts need Altair")
    pytest.importorskip("vl_convert", reason="charts need vl-convert")
    from celo.evaluate._report import files

    return files.draw_all(board)
