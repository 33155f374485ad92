"""AdaFac-MLP's published file, by the names of the recorded weights."""

import mlps_data
import numpy as np
import pytest
from trees import nested, write

from celo import weights
from celo.convert import convert, read_official


@pytest.mark.parametrize("kind", mlps_data.KINDS)
def test_it_is_read_and_written_byte_for_byte(tmp_path, kind):
    published = mlps_data.published("adafac_mlp", kind)
    source = write(tmp_path / "theta.state", nested(published, ()))
    theta, unused, architecture = read_official(source)
    assert (architecture, unused) == ("adafac_mlp", {})
    wanted = weights.flatten(mlps_data.to_theta("adafac_mlp", published))
    assert weights.flatten(theta).keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(weights.flatten(theta)[name], array, strict=True)
    said = convert(source, tmp_path / "ours.safetensors")
    assert "adafac_mlp, 197 weights" in said
    convert(tmp_path / "ours.safetensors", tmp_path / "back.state")
    assert (tmp_path / "back.state").read_bytes() == source.read_bytes()


def test_the_number_of_units_tells_mulo(tmp_path):
    published = mlps_data.published("adafac_mlp", "noisy")
    wide = dict(published)
    for name, shape in {"w0": (39, 32), "b0": (32,), "w1": (32, 32), "b1": (32,), "w2": (32, 2)}.items():
        wide[f"nn/~/{name}"] = np.ones(shape, "f4")
    theta, _, architecture = read_official(write(tmp_path / "theta.state", nested(wide, ())))
    assert architecture == "mulo"
    assert theta["adafac_mlp"]["w1"].shape == (32, 32)
