"""Where every number of the published files of Celo and Celo-Adam goes."""

import numpy as np
import pytest
from trees import WIDTHS, official_tree, write

from celo._definitions import INPUTS
from celo.convert import read_official


def test_update_rule_mapping(tmp_path):
    tree = official_tree("celo")
    theta, unused, _ = read_official(write(tmp_path / "theta.state", tree))
    stack, ours = tree["ff_mod_stack"]["~"], theta["update_rule"]
    assert ours["w0"].shape == (30, 4)
    row = 0
    for group, width in enumerate(WIDTHS):
        for inside in range(width):
            np.testing.assert_array_equal(ours["w0"][row], stack[f"w0__{group}"][0, inside])
            row += 1
    assert row == 30
    expected = {
        "b0": stack["b0"][0],
        "w1": stack["w1"][0],
        "b1": stack["b1"][0],
        "w2": stack["w2"][0, :, :2],
        "b2": stack["b2"][0, :2],
    }
    assert ours.keys() == {"w0", *expected}
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)
    np.testing.assert_array_equal(unused["official/ff_mod_stack/w2_third"], stack["w2"][0, :, 2], strict=True)
    assert unused["official/ff_mod_stack/b2_third"] == stack["b2"][0, 2]


@pytest.mark.parametrize("architecture", ["celo", "celo_adam"])
def test_scheduler_mapping(tmp_path, architecture):
    tree = official_tree(architecture)
    theta, unused, _ = read_official(write(tmp_path / "theta.state", tree))
    rnn, start = tree["rnn_params"], tree["lstm_init_state"]
    expected = {
        "mix_w": rnn["linear_1"]["w"],
        "mix_b": rnn["linear_1"]["b"],
        "skip_w": rnn["linear_2"]["w"],
        "skip_b": rnn["linear_2"]["b"],
        "lstm_w": rnn["rnn/linear"]["w"],
        "lstm_b": rnn["rnn/linear"]["b"],
        "out_w": rnn["step_size"]["w"][:, 0],
        "out_b": rnn["step_size"]["b"].reshape(()),
        "h0": start["hidden"][0],
        "c0": start["cell"][0],
    }
    assert theta["scheduler"].keys() == expected.keys()
    assert theta.keys() == ({"update_rule", "scheduler"} if architecture == "celo" else {"scheduler"})
    for name, array in expected.items():
        np.testing.assert_array_equal(theta["scheduler"][name], array, strict=True)
    for name in set(rnn) & {"linear", "rnn_to_controls"}:
        for leaf in "bw":
            kept = unused[f"official/rnn_params/{name}/{leaf}"]
            np.testing.assert_array_equal(kept, rnn[name][leaf], strict=True)


def test_groups_of_the_official_first_layer_are_the_rules_inputs():
    assert list(INPUTS.values()) == WIDTHS
