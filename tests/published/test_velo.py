"""Where the numbers of VeLO's published files go: theta.state, its checkpoint, PyLO's two files."""

import hashlib

import numpy as np
import pytest
from safetensors.numpy import save
from trees import WIDTHS, pack, write

from celo import weights
from celo._errors import CeloError
from celo.convert import convert, read_official

SIZES = {"velo_s": (64, 32), "velo": (512, 256), "velo_4000": (512, 256)}
COUNTS = {"velo_s": 44_193, "velo": 2_303_233, "velo_4000": 2_303_233}
WORKING_COPY = "input_weights, input_bias, hidden_weights.0, hidden_bias.0, output_weights, output_bias"


def published(architecture, seed=0):
    """Random weights in the published nesting and key order."""
    rng, (units, banks) = np.random.default_rng(seed), SIZES[architecture]

    def draw(*shape):
        return rng.normal(size=shape).astype("f4")

    def linear(inputs, outputs):
        return {"b": draw(outputs), "w": draw(inputs, outputs)}

    blocks = {f"w0__{group}": draw(banks, width, 4) for group, width in enumerate(WIDTHS)}
    stack = {"b0": draw(banks, 4), "b1": draw(banks, 4), "b2": draw(banks, 3), **dict(sorted(blocks.items()))}
    stack |= {"w1": draw(banks, 4, 4), "w2": draw(banks, 4, 3)}
    return {
        "ff_mod_stack": {"~": stack},
        "lstm_init_state": {"hidden": draw(1, units), "cell": draw(1, units)},
        "rnn_params": {
            "linear": linear(30, units),
            "linear_1": linear(30, units),
            "linear_2": linear(30, units),
            "rnn/linear": linear(2 * units, 4 * units),
            "rnn_to_controls": linear(units, banks),
            "step_size": linear(units, 1),
        },
    }


def expected(tree):
    """(θ, unused arrays)."""
    stack, net, start = tree["ff_mod_stack"]["~"], tree["rnn_params"], tree["lstm_init_state"]
    bank = {
        "w0": np.concatenate([stack[f"w0__{group}"] for group in range(14)], axis=1),
        **{name: stack[name] for name in ("b0", "w1", "b1")},
        **{name: stack[name][..., :2] for name in ("w2", "b2")},
    }
    layers = {"mix": "linear_1", "skip": "linear_2", "lstm": "rnn/linear", "control": "rnn_to_controls"}
    controller = {f"{name}_{x}": net[layer][x] for name, layer in layers.items() for x in "bw"}
    controller |= {"step_w": net["step_size"]["w"][:, 0], "step_b": net["step_size"]["b"][0]}
    controller |= {"h0": start["hidden"][0], "c0": start["cell"][0]}
    unused = {f"official/rnn_params/linear/{x}": net["linear"][x] for x in "bw"}
    unused |= {f"official/ff_mod_stack/{x}_third": stack[x][..., 2] for x in ("b2", "w2")}
    return {"rule_bank": bank, "controller": controller}, unused


def equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def pylo_files(tree, folder):
    """The same weights as PyLO's two modules, with what a module keeps besides."""
    stack, net, start = tree["ff_mod_stack"]["~"], tree["rnn_params"], tree["lstm_init_state"]
    layers = {
        "mix_layer1": "linear",
        "mix_layer2": "linear_1",
        "final_mix_layer": "linear_2",
        "lstm.linear": "rnn/linear",
        "rnn_to_controls": "rnn_to_controls",
        "step_size": "step_size",
    }
    rnn = {f"{name}.weight": np.ascontiguousarray(net[layer]["w"].T) for name, layer in layers.items()}
    rnn |= {f"{name}.bias": net[layer]["b"] for name, layer in layers.items()}
    rnn |= {"lstm_init_state.0": start["hidden"], "lstm_init_state.1": start["cell"]}
    w0 = np.concatenate([stack[f"w0__{group}"] for group in range(14)], axis=1)
    mlp = {"input_weights_": w0, "hidden_weights_.0": stack["w1"], "output_weights_": stack["w2"]}
    mlp = {name: np.ascontiguousarray(array.transpose(0, 2, 1)) for name, array in mlp.items()}
    mlp |= {"input_bias_": stack["b0"], "hidden_bias_.0": stack["b1"], "output_bias_": stack["b2"]}
    mlp |= {name.replace("_.", ".").removesuffix("_"): array[0] for name, array in mlp.items()}
    paths = folder / "rnn.safetensors", folder / "mlp.safetensors"
    for path, arrays in zip(paths, (rnn, mlp), strict=True):
        path.write_bytes(save(arrays, metadata={"format": "pt"}))
    return paths


@pytest.mark.parametrize("architecture", SIZES)
def test_there_and_back_byte_for_byte(architecture, tmp_path):
    tree = published(architecture)
    source, ours, back = (tmp_path / name for name in ("theta.state", "ours.safetensors", "back.state"))
    line = convert(write(source, tree), ours, architecture=architecture)
    loaded = weights.load(ours)
    assert line == f"{ours}: {architecture}, {COUNTS[architecture]:,} weights, sha256 {loaded.sha256}"
    assert loaded.metadata["official_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    theta, unused = expected(tree)
    equal(loaded.extra, unused)
    for group in theta:
        equal(loaded.theta[group], theta[group])
    convert(ours, back)
    assert back.read_bytes() == source.read_bytes()


def test_of_those_that_look_alike_the_released_one_is_meant_unless_named(tmp_path):
    source = write(tmp_path / "theta.state", published("velo"))
    line = convert(source, tmp_path / "ours.safetensors")
    assert ": velo_4000, 2,303,233 weights, sha256 " in line
    assert line.endswith(". Files of velo look the same: name the architecture if it is one")
    assert read_official(source)[2] == "velo_4000"
    assert read_official(source, "velo")[2] == "velo"
    assert "look the same" not in convert(
        write(tmp_path / "s.state", published("velo_s")), tmp_path / "s.safetensors"
    )
    with pytest.raises(CeloError, match="unknown architecture 'velo_400'; known, nearest first: velo_4000"):
        convert(source, tmp_path / "ours.safetensors", architecture="velo_400")
    with pytest.raises(CeloError, match="taken for velo_s, but wrong shape"):
        convert(source, tmp_path / "ours.safetensors", architecture="velo_s")


@pytest.mark.parametrize("step", [np.int32(7), 7])
def test_a_checkpoint_holds_the_weights_and_loses_the_rest(step, tmp_path):
    """As VeLO's authors released theirs: flax writes a scalar array, or a number."""
    tree, path = published("velo_s"), tmp_path / "params"
    path.write_bytes(pack({"params": tree, "gen_id": "0f" * 40, "step": step}))
    ours = tmp_path / "ours.safetensors"
    assert convert(path, ours).endswith(". gen_id and step of the checkpoint were left out")
    for group, arrays in expected(tree)[0].items():
        equal(weights.load(ours).theta[group], arrays)
    path.write_bytes(pack({"params": tree, "gen_id": "0f"}))
    with pytest.raises(CeloError, match=r"not an official theta\.state"):
        convert(path, ours)


def test_pylos_two_files_are_one_optimizer(tmp_path):
    tree, ours = published("velo_4000"), tmp_path / "ours.safetensors"
    rnn, mlp = pylo_files(tree, tmp_path)
    for files in ((rnn, mlp), (mlp, rnn)):
        line = convert(files, ours)
        assert ": velo_4000, 2,303,233 weights, sha256 " in line
        assert line.endswith(f". PyLO's working copy of one mixed network was left out: {WORKING_COPY}")
        loaded = weights.load(ours)
        theta, unused = expected(tree)
        equal(loaded.extra, unused)
        for group in theta:
            equal(loaded.theta[group], theta[group])
    convert(ours, tmp_path / "back.state")
    assert (tmp_path / "back.state").read_bytes() == pack(tree)


def test_half_of_it_is_refused(tmp_path):
    rnn, mlp = pylo_files(published("velo_4000"), tmp_path)
    ours = tmp_path / "ours.safetensors"
    with pytest.raises(CeloError, match="taken for velo_4000, but missing: input_weights_"):
        convert(rnn, ours)
    with pytest.raises(CeloError, match=r"taken for velo_4000, but missing: mix_layer1\.weight"):
        convert([mlp], ours)
    convert([rnn, mlp], ours)
    with pytest.raises(
        CeloError, match="only mulo, celo2 and celo2_base have a PyTorch form, not 'velo_4000'"
    ):
        convert(ours, tmp_path / "back.safetensors")
    with pytest.raises(CeloError, match="several files make one"):
        convert([rnn, mlp], tmp_path / "back.state")
