import pytest
import synthetic


@pytest.fixture(scope="session")
def board():
    """Two tasks, four contestants; momentum has diverged on all seeds of one."""
    from celo.evaluate._score.leaderboard import leaderboard

    tasks, names = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")
    return leaderboard([synthetic.record(task, name) for task in tasks for name in names])


@pytest.fixture(scope="session")
def drawn(board):
    """Its charts as files, name -> bytes."""
    pytest.importorskip("altair", reason="charts need Altair")
    pytest.importorskip("vl_convert", reason="charts need vl-convert")
    from celo.evaluate._report import files

    return files.draw_all(board)
