"""Run by test_sharding.py on 8 devices: a training on one device and on several layouts, and its checkpoint.

Its arguments are a folder and names of `PARTS`. Writes into the folder: NAME.hlo, the optimizer's compiled
step on a layout, and programs that do what it must not; and report.json, how far apart the trainings end.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from celo.optimizers import Velo, celo, velo
from celo.transforms import accumulate, soap, state_sharding

try:
    import orbax.checkpoint as ocp
except ImportError:
    ocp = None

STEPS = 20
HORIZON = 100
ALL = ("data", "model")
LAYER = {"up": (32, 64), "down": (64, 32)}
MODEL = {"layers": [LAYER, LAYER], "bias": (32,)}
BLOCKS = {"blocks": (2, 64, 32)}  # a stack of layers


def specs(up, down, bias):
    return {"layers": [{"up": up, "down": down}] * 2, "bias": bias}


LAYOUTS = {  # of the parameters, and of the batch
    "data": (specs(P(), P(), P()), P(ALL)),
    "fsdp": (specs(P(ALL), P(None, ALL), P(ALL)), P(ALL)),
    "tensor": (specs(P(None, "model"), P("model"), P()), P("data")),
}


def normal(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: (0.2 * rng.standard_normal(shape)).astype(np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def model_loss(params, batch):
    hidden = batch["x"]
    for layer in params["layers"]:
        hidden = hidden + jnp.tanh(hidden @ layer["up"]) @ layer["down"]
    return jnp.mean(jnp.square(hidden + params["bias"] - batch["y"]))


def distance_loss(params, batch):
    return jnp.mean(jnp.square(params["blocks"] - batch))


class Training:
    """Parameters placed as `shardings` say (None: one device), their state beside them, a compiled step."""

    def __init__(self, tx, loss, params, batch, shardings=None, batch_sharding=None):
        self.params = jax.device_put(params, shardings)
        self.batch = jax.device_put(batch, batch_sharding)
        beside = None if shardings is None else state_sharding(tx, self.params)
        self.state = jax.jit(tx.init, out_shardings=beside)(self.params)
        self.gradient = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))

        def step(loss, grads, state, params):
            updates, state = tx.update(grads, state, params, value=loss)
            return optax.apply_updates(params, updates), state

        example = (*self.gradient(self.params, self.batch), self.state, self.params)
        self.step = jax.jit(step).lower(*example).compile()

    def advance(self, steps):
        """A compiled step refuses arrays in other shardings: its results must stay where they came from."""
        for _ in range(steps):
            # Programs must not overlap: those waiting in one's collectives leave no thread to another's.
            loss_and_grads = jax.block_until_ready(self.gradient(self.params, self.batch))
            ended = jax.block_until_ready(self.step(*loss_and_grads, self.state, self.params))
            self.params, self.state = ended
        return self

    def arrays(self):
        return jax.tree.map(lambda x: np.asarray(x, np.float64), (self.params, self.state))


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree))))


def apart(arrays, reference, start):
    """Distances: of the parameters by how far they have moved; of the state's worst array by its norm."""
    (params, state), (true_params, true_state) = arrays, reference
    minus = np.subtract
    return {
        "params": norm(jax.tree.map(minus, params, true_params))
        / norm(jax.tree.map(minus, true_params, start)),
        "state": max(
            norm(minus(a, b)) / max(norm(b), 1e-30)
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(true_state), strict=True)
        ),
    }


def on_mesh(mesh, tree):
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree)


def plain(folder, layouts=tuple(LAYOUTS)):
    """The model on each layout; half of it on the second, saved, and the rest of it on others."""
    mesh = jax.make_mesh((2, 4), ALL, axis_types=(AxisType.Auto,) * 2)
    # Element-wise: matrices that are orthogonalised have to cross devices.
    tx, start = celo(HORIZON, orthogonalize=False), normal(MODEL, 0)
    batch = normal({"x": (16, 32), "y": (16, 32)}, 1)
    trainings = {"one": Training(tx, model_loss, start, batch)}
    for name in layouts:
        param_specs, batch_spec = LAYOUTS[name]
        shardings = on_mesh(mesh, param_specs), NamedSharding(mesh, batch_spec)
        trainings[name] = Training(tx, model_loss, start, batch, *shardings)
        (folder / f"{name}.hlo").write_text(trainings[name].step.as_text())
    targets = {
        name: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
            (training.params, training.state),
        )
        for name, training in trainings.items()
    }
    half = trainings["fsdp"].advance(STEPS // 2)
    half = half.params, half.state
    ends = {
        name: training.advance(STEPS // 2 if name == "fsdp" else STEPS).arrays()
        for name, training in trainings.items()
    }
    report = {name: apart(end, ends["one"], start) for name, end in ends.items()}
    if ocp is not None:
        for name in (name for name in trainings if name != "data"):
            training = trainings[name]
            training.params, training.state = through_orbax(folder / name, half, targets[name])
            end = training.advance(STEPS // 2).arrays()
            report[f"fsdp, {name}"] = apart(end, ends["fsdp"], start)
    return report


def through_orbax(folder, tree, targets):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder, targets)


def wrapped(folder):
    """A stack of layers on an explicit mesh, in all that a state can be wrapped in."""
    mesh = jax.make_mesh((2, 4), ALL, axis_types=(AxisType.Explicit,) * 2)
    inner = celo(
        HORIZON, nonfinite="repair", per_layer={"blocks": 1}, orthogonalize=False, state_dtype="bfloat16"
    )
    tx = accumulate(optax.chain(optax.clip(1.0), inner), 2)
    start, batch = normal(BLOCKS, 0), np.float32(0.5)
    shardings = on_mesh(mesh, {"blocks": P(None, "data", "model")}), NamedSharding(mesh, P())
    one = Training(tx, distance_loss, start, batch).advance(STEPS).arrays()
    training = Training(tx, distance_loss, start, batch, *shardings)
    (folder / "wrapped.hlo").write_text(training.step.as_text())
    return {"wrapped": apart(training.advance(STEPS).arrays(), one, start)}


def velos(folder):
    """VeLO, whose controller hears of every tensor: split ones, and a stack of them on an explicit mesh."""
    optimizer = Velo("xla", units=8, banks=4)
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(optimizer.init_theta, jax.random.key(0)))
    theta = jax.tree.map(lambda x: 2.0 * x, normal(shapes, 5))
    batch = normal({"x": (16, 32), "y": (16, 32)}, 1)
    mesh = jax.make_mesh((2, 4), ALL, axis_types=(AxisType.Auto,) * 2)
    explicit = jax.make_mesh((2, 4), ALL, axis_types=(AxisType.Explicit,) * 2)
    param_specs, batch_spec = LAYOUTS["fsdp"]
    settings = {"weights": theta, "mixture_scale": 3.0}
    cases = {
        "velo": (velo(HORIZON, **settings), model_loss, normal(MODEL, 0), batch),
        "velo, stacked": (
            velo(HORIZON, per_layer={"blocks": 1}, **settings),
            distance_loss,
            normal(BLOCKS, 0),
            np.float32(0.5),
        ),
    }
    places = {
        "velo": (on_mesh(mesh, param_specs), NamedSharding(mesh, batch_spec)),
        "velo, stacked": (
            on_mesh(explicit, {"blocks": P(None, "data", "model")}),
            NamedSharding(explicit, P()),
        ),
    }
    report = {}
    for name, case in cases.items():
        one = Training(*case).advance(STEPS).arrays()
        training = Training(*case, *places[name])
        (folder / f"{name}.hlo").write_text(training.step.as_text())
        report[name] = apart(training.advance(STEPS).arrays(), one, case[2])
    return report


def rotated(_):
    """SOAP, whose eigenbases are split by rows, on a stack of layers."""
    mesh = jax.make_mesh((2, 4), ALL, axis_types=(AxisType.Auto,) * 2)
    tx = soap(1e-2, max_precond_dim=32)  # gradients span the axes of 2 and 32: others' bases are arbitrary
    start, batch = normal(BLOCKS, 0), np.float32(0.5)
    shardings = on_mesh(mesh, {"blocks": P(None, "data", "model")}), NamedSharding(mesh, P())
    one = Training(tx, distance_loss, start, batch).advance(STEPS).arrays()
    split = Training(tx, distance_loss, start, batch, *shardings).advance(STEPS).arrays()
    return {"rotated": apart(split, one, start)}


def bad(folder):
    """Programs that move a tensor, or add up one: what the check of collectives is there to find."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P()))
    w = jax.device_put(normal(LAYER, 0)["up"], rows)
    programs = {
        "gathered": (lambda w: 2 * w, whole),
        "transposed": (lambda w: w.T, rows),
        "added": (lambda w: w.T @ w, whole),
    }
    for name, (function, sharding) in programs.items():
        program = jax.jit(function, out_shardings=sharding).lower(w).compile()
        (folder / f"{name}.hlo").write_text(program.as_text())
    return {}


def first(folder):
    """The model on the first two layouts: what quick tests look at."""
    return plain(folder, tuple(LAYOUTS)[:2])


PARTS = {part.__name__: part for part in (bad, first, plain, wrapped, velos, rotated)}


def main(folder, *parts):
    report = {name: apart for part in parts for name, apart in PARTS[part](folder).items()}
    (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    main(Path(sys.argv[1]), *sys.argv[2:])
