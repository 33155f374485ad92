"""Weights as PyLO has them (arXiv 2506.10315): safetensors files of PyTorch modules.

Such files hold networks alone. What else makes the optimizer is in PyLO's code, and in `constants` here.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from celo._definitions import CELO2, HIDDEN, INPUTS, NUM_INPUTS, VELO_INPUTS
from celo._errors import CeloError
from celo._published.layout import Layout, Piece


def metadata(data: bytes) -> dict[str, str] | None:
    """That of a safetensors file; None for a file that is something else."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > len(data) - 8:
        return None
    try:
        return json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except ValueError:
        return None


def decode(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, weights transposed: [inputs, outputs].

    Raises:
      CeloError: if it is damaged, or not float32.
    """
    try:
        arrays = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type NumPy does not have
        raise CeloError(f"damaged: {error}") from error
    return {name: _transposed(name, array) for name, array in arrays.items()}


def encode(tree: Mapping[str, Any]) -> bytes:
    """Nested dicts of float32 arrays as PyTorch's safetensors writes a module's state."""

    def flat(node: Mapping[str, Any], path: str = "") -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for key, value in node.items():
            name = f"{path}{key}"
            is_group = isinstance(value, Mapping)
            arrays |= flat(value, f"{name}.") if is_group else {name: _transposed(name, value)}
        return arrays

    return save(flat(tree), metadata={"format": "pt"})


def _transposed(name: str, array: np.ndarray) -> np.ndarray:
    """PyTorch's weights, one matrix or a stack of them, with inputs first, or back; biases as they are."""
    return np.ascontiguousarray(array.swapaxes(-1, -2)) if "weight" in name else array


def _layer(module: str, inputs: int, outputs: int, number: int) -> list[Piece]:
    return [
        Piece(("network", module, "weight"), (inputs, outputs), ..., f"adafac_mlp/w{number}"),
        Piece(("network", module, "bias"), (outputs,), ..., f"adafac_mlp/b{number}"),
    ]


MULO = Layout(
    "mulo",
    (*_layer("input", 39, 32, 0), *_layer("linear_0", 32, 32, 1), *_layer("output", 32, 2, 2)),
    constants={
        "adafac_mlp/momentum_decays": (0.15216392, 0.14245212, 0.06812963),
        "adafac_mlp/second_moment_decay": 0.01079706,
        "adafac_mlp/factored_decays": (0.18621896, -0.10864615, -0.06185547),
        "adafac_mlp/log_step": math.log(10.0),  # steps of 0.01 instead of 0.001
    },
    note="PyLO's files hold the network alone; the decays and the step of 0.01 are those of its code",
)


def _linear(module: str, inputs: int, outputs: int, name: str) -> list[Piece]:
    keys = tuple(module.split("."))
    return [
        Piece((*keys, "weight"), (inputs, outputs), ..., f"{name}w"),
        Piece((*keys, "bias"), (outputs,), ..., f"{name}b"),
    ]


_UNITS, _BANKS = 512, 256
_WORKING_COPY = (
    "input_weights",
    "input_bias",
    "hidden_weights.0",
    "hidden_bias.0",
    "output_weights",
    "output_bias",
)
VELO = Layout(  # two files, VeLO_RNN and VeLO_MLP
    "velo_4000",
    (
        *_linear("mix_layer1", VELO_INPUTS, _UNITS, "official/rnn_params/linear/"),
        *_linear("mix_layer2", VELO_INPUTS, _UNITS, "controller/mix_"),
        *_linear("final_mix_layer", VELO_INPUTS, _UNITS, "controller/skip_"),
        *_linear("lstm.linear", 2 * _UNITS, 4 * _UNITS, "controller/lstm_"),
        *_linear("rnn_to_controls", _UNITS, _BANKS, "controller/control_"),
        Piece(("step_size", "weight"), (_UNITS, 1), np.s_[:, 0], "controller/step_w"),
        Piece(("step_size", "bias"), (1,), 0, "controller/step_b"),
        Piece(("lstm_init_state", "0"), (1, _UNITS), 0, "controller/h0"),
        Piece(("lstm_init_state", "1"), (1, _UNITS), 0, "controller/c0"),
        Piece(("input_weights_",), (_BANKS, NUM_INPUTS, HIDDEN), ..., "rule_bank/w0"),
        Piece(("input_bias_",), (_BANKS, HIDDEN), ..., "rule_bank/b0"),
        Piece(("hidden_weights_", "0"), (_BANKS, HIDDEN, HIDDEN), ..., "rule_bank/w1"),
        Piece(("hidden_bias_", "0"), (_BANKS, HIDDEN), ..., "rule_bank/b1"),
        Piece(("output_weights_",), (_BANKS, HIDDEN, 3), np.s_[..., :2], "rule_bank/w2"),
        Piece(("output_weights_",), (_BANKS, HIDDEN, 3), np.s_[..., 2], "official/ff_mod_stack/w2_third"),
        Piece(("output_bias_",), (_BANKS, 3), np.s_[..., :2], "rule_bank/b2"),
        Piece(("output_bias_",), (_BANKS, 3), np.s_[..., 2], "official/ff_mod_stack/b2_third"),
    ),
    note=f"PyLO's working copy of one mixed network was left out: {', '.join(_WORKING_COPY)}",
    ignored=_WORKING_COPY,
)
_WIDTHS, _HIDDEN = tuple(INPUTS.values()), CELO2.hidden
_CELO2_PIECES = (  # of CELO2MLP; "w0.3" and its like are no weights of PyTorch's layers: inputs come first
    *(
        Piece(("w0", str(group)), (width, _HIDDEN), ..., "update_rule/w0", at=(sum(_WIDTHS[:group]),))
        for group, width in enumerate(_WIDTHS)
    ),
    Piece(("b0",), (_HIDDEN,), ..., "update_rule/b0"),
    Piece(("dense_w", "0"), (_HIDDEN, _HIDDEN), ..., "update_rule/w1"),
    Piece(("dense_b", "0"), (_HIDDEN,), ..., "update_rule/b1"),
    Piece(("dense_w", "1"), (_HIDDEN, 3), np.s_[:, :1], "update_rule/w2"),
    Piece(("dense_w", "1"), (_HIDDEN, 3), np.s_[:, 1:], "official/ff_mod_stack/w2_others"),
    Piece(("dense_b", "1"), (3,), np.s_[:1], "update_rule/b2"),
    Piece(("dense_b", "1"), (3,), np.s_[1:], "official/ff_mod_stack/b2_others"),
)
CELO2_RULE, CELO2_BASE_RULE = (
    Layout(architecture, _CELO2_PIECES, note=note)
    for architecture, note in (
        (
            "celo2",
            "PyLO's steps of vectors are another AdamW: bias-corrected, and without the factor of 20 of the "
            "published code, which is ours",
        ),
        ("celo2_base", ""),
    )
)
LAYOUTS = (MULO, VELO, CELO2_RULE, CELO2_BASE_RULE)
