"""RNN-MLP's published file, by the names of the recorded weights."""

import mlps_data
import numpy as np
import pytest
from trees import nested, write

from celo import weights
from celo.convert import convert, read_official

MODULES = ("mlp/~/linear_0", "mlp/~/linear_1", "mlp/~/linear_2", "rnn/linear")


@pytest.mark.parametrize("kind", mlps_data.KINDS)
def test_it_is_read_and_written_byte_for_byte(tmp_path, kind):
    published = mlps_data.published("rnn_mlp", kind)
    source = write(tmp_path / "theta.state", nested(published, MODULES))
    theta, unused, architecture = read_official(source)
    assert (architecture, unused) == ("rnn_mlp", {})
    wanted = weights.flatten(mlps_data.to_theta("rnn_mlp", published))
    assert weights.flatten(theta).keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(weights.flatten(theta)[name], array, strict=True)
    assert "rnn_mlp, 35,799 weights" in convert(source, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "back.state")
    assert (tmp_path / "back.state").read_bytes() == source.read_bytes()
