import pytest


@pytest.fixture
def data_folder(monkeypatch, tmp_path):
    """An empty data folder of this test's own."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("CELO_DATA_DIR", str(folder))
    return folder
