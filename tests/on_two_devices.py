"""Run by test_layout.py: optimizers inside `shard_map`, on explicit meshes, and begun outside of `jit`.

Its arguments are the names of those to try; without any it tries all. Prints one JSON object: case -> "" or
what went wrong. Types are compared when a program is traced, so that most cases compute nothing.
"""

import json
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import celo
from celo.optimizers import RNNMLP, Celo, CeloAdam, DecayedRule, NNAdam, Velo
from celo.transforms import accumulate, orthogonalize

jax.config.update("jax_cpu_enable_async_dispatch", False)
warnings.simplefilter("ignore", celo.OutOfRangeWarning)
PARAMS = {"stack": jnp.ones((8, 2, 4)), "matrix": jnp.ones((8, 6)), "vector": jnp.ones((8,))}
PARAMS["another"] = jnp.zeros((8,))
AUTO, EXPLICIT = (jax.make_mesh((2,), ("x",), axis_types=(t,)) for t in (AxisType.Auto, AxisType.Explicit))
ONE = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))


def transforms(kernel, names=()):
    """name -> transformation, of those named or of all."""

    def bound(optimizer):
        return celo.as_optax(optimizer, optimizer.init_theta(jax.random.key(0)), 10)

    counts = {"stack": 1, "matrix": 0, "vector": 1, "another": 1}
    makers = {
        "celo": lambda: celo.celo(10, kernel=kernel),
        "per_layer": lambda: celo.celo(10, kernel=kernel, per_layer=counts),
        "bfloat16": lambda: celo.celo(10, kernel=kernel, state_dtype="bfloat16", plateau=0.5),
        "rule": lambda: celo.celo_rule(lambda step: 1.0, kernel=kernel, weight_decay=0.1),
        "adam": lambda: celo.celo_adam(10, weights=CeloAdam().init_theta(jax.random.key(0))),
        "shrink": lambda: celo.celo(10, kernel=kernel, nonfinite="shrink"),
        "hold": lambda: celo.celo(10, kernel=kernel, nonfinite="hold"),
        "accumulate": lambda: accumulate(celo.celo(10, kernel=kernel), 2),
        "unbound": lambda: bound(Celo(kernel)),
        "decayed": lambda: bound(DecayedRule(kernel)),
        "velo": lambda: bound(Velo(kernel=kernel)),
        "rnn_mlp": lambda: bound(RNNMLP(kernel)),
        "nn_adam": lambda: bound(NNAdam(kernel)),
        "orthogonalize": lambda: optax.chain(optax.scale_by_adam(), orthogonalize(kernel=kernel)),
    }
    return {name: make() for name, make in makers.items() if not names or name in names}


def step(tx, params, state):
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    tx = optax.with_extra_args_support(tx)
    updates, state = tx.update(grads, state, params, value=jnp.ones(()))
    return optax.apply_updates(params, updates), state


def train(tx, params, state):
    return jax.lax.scan(lambda carry, _: (step(tx, *carry), None), (params, state), None, length=2)[0]


def in_shard_map(tx, spec):
    def of_a_shard(params):
        return train(tx, params, tx.init(params))[0]

    jax.jit(jax.shard_map(of_a_shard, mesh=AUTO, in_specs=spec, out_specs=spec)).trace(PARAMS)


def on_explicit(tx, mesh, spec):
    params = jax.device_put(PARAMS, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        jax.jit(lambda params: train(tx, params, tx.init(params))).trace(params)


def shards_that_differ_are_not_one(tx):
    """Parameters split, results said to be equal on all devices: to be refused."""
    try:
        jax.jit(
            jax.shard_map(lambda p: step(tx, p, tx.init(p))[0], mesh=AUTO, in_specs=P("x"), out_specs=P())
        ).trace(PARAMS)
    except ValueError as error:
        if "out_specs" in str(error):
            return
        raise
    raise AssertionError("shards that differ passed as equal")


def compiled_once(tx, place):
    """A state begun outside of `jit` lies where a step leaves it."""
    params = jax.device_put(PARAMS, place)
    state = tx.init(params)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    run = jax.jit(lambda params, state: step(tx, params, state))
    for _ in range(2):
        params, state = run(params, state)
        if not compilations or len(compilations) > 1:
            raise AssertionError(f"compiled {len(compilations)} times")
    after = jax.tree.map(lambda x: x.sharding, (params, state))
    same = jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), shardings, after, (params, state))
    assert all(jax.tree.leaves(same)), same
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def cases(names):
    for kernel in ("xla", "native"):
        for name, tx in transforms(kernel, names).items():
            yield f"{kernel} {name} in shard_map, split", in_shard_map, tx, P("x")
            yield f"{kernel} {name} in shard_map, whole", in_shard_map, tx, P()
            if (kernel, name) != ("native", "per_layer"):  # under vmap JAX types foreign results as unsplit
                yield f"{kernel} {name} on an explicit mesh of one", on_explicit, tx, ONE, P("x")
            yield f"{kernel} {name} refuses", shards_that_differ_are_not_one, tx
            if kernel == "xla":
                yield f"{name} on an explicit mesh", on_explicit, tx, EXPLICIT, P("x")
    begun = transforms("xla", ("celo", "accumulate", "adam"))
    yield "celo compiled once", compiled_once, begun["celo"], NamedSharding(AUTO, P("x"))
    yield "accumulate compiled once", compiled_once, begun["accumulate"], NamedSharding(EXPLICIT, P(None))
    yield "adam compiled once", compiled_once, begun["adam"], jax.devices()[1]


def outcome(check, *arguments):
    try:
        check(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    print(json.dumps({name: outcome(check, *arguments) for name, check, *arguments in cases(sys.argv[1:])}))
