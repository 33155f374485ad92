"""Weights in published forms, written out independently of the layouts."""

import msgpack
import numpy as np

WIDTHS = [1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3]


def official_tree(architecture, seed=0):
    """Those of Celo or Celo-Adam, in the published nesting and key order."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype("f4")

    def linear(inputs, outputs):
        return {"b": draw(outputs), "w": draw(inputs, outputs)}

    blocks = {f"w0__{group}": draw(1, width, 4) for group, width in enumerate(WIDTHS)}
    stack = {"b0": draw(1, 4), "b1": draw(1, 4), "b2": draw(1, 3), **dict(sorted(blocks.items()))}
    stack |= {"w1": draw(1, 4, 4), "w2": draw(1, 4, 3)}
    rnn = {
        "linear": linear(18, 64),
        "linear_1": linear(18, 64),
        "linear_2": linear(18, 64),
        "rnn/linear": linear(128, 256),
        "rnn_to_controls": linear(64, 1),
        "step_size": linear(64, 1),
    }
    tree = {
        "ff_mod_stack": {"~": stack},
        "lstm_init_state": {"hidden": draw(1, 64), "cell": draw(1, 64)},
        "rnn_params": rnn,
    }
    if architecture == "celo_adam":
        del tree["ff_mod_stack"], rnn["rnn_to_controls"]
    return tree


def nested(flat, groups):
    """{"nn/~/w0": x} -> {"nn": {"~": {"w0": x}}}: names with slashes, of which `groups` are single keys."""
    tree = {}
    for name, array in flat.items():
        for group in groups:
            name = name.replace(group, group.replace("/", "|"))
        *keys, leaf = (key.replace("|", "/") for key in name.split("/"))
        node = tree
        for key in keys:
            node = node.setdefault(key, {})
        node[leaf] = array
    return tree


def pack_array(array):
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def pack(tree):
    return msgpack.packb(tree, default=pack_array)


def write(path, tree):
    path.write_bytes(pack(tree))
    return path
