"""The rule against its definition, written out slowly in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo._kernels import rule_network
from celo.optimizers import UpdateRule, scale_by_celo_rule
from celo.optimizers._update_rule import GROUP, mirrored

DECAYS = (0.9, 0.99, 0.999)
TENSORS = {
    "scalar": (),
    "vector": (7,),
    "matrix": (5, 3),
    "square": (4, 4),
    "column": (6, 1),
    "stack": (2, 3, 4),
    "kernel": (3, 3, 2, 4),
}


class Reference:
    """Celo's rule for one tensor, literally from the paper's definition."""

    def __init__(self, theta, shape):
        self.theta = {name: np.asarray(array, np.float64) for name, array in theta["update_rule"].items()}
        self.m = [np.zeros(shape) for _ in DECAYS]
        self.v = np.zeros(shape)
        self.factored = len(shape) >= 2
        if self.factored:
            order = np.argsort(shape, kind="stable")
            self.second, self.largest = int(order[-2]), int(order[-1])
            self.row = [np.zeros(np.delete(shape, self.largest)) for _ in DECAYS]
            self.col = [np.zeros(np.delete(shape, self.second)) for _ in DECAYS]
        else:
            self.full = [np.zeros(shape) for _ in DECAYS]

    def observe(self, g):
        self.m = [b * m + (1 - b) * g for b, m in zip(DECAYS, self.m, strict=True)]
        self.v = 0.999 * self.v + 0.001 * g**2
        square = g**2 + 1e-30
        if self.factored:
            row, col = square.mean(axis=self.largest), square.mean(axis=self.second)
            self.row = [b * r + (1 - b) * row for b, r in zip(DECAYS, self.row, strict=True)]
            self.col = [b * c + (1 - b) * col for b, c in zip(DECAYS, self.col, strict=True)]
        else:
            self.full = [b * f + (1 - b) * square for b, f in zip(DECAYS, self.full, strict=True)]

    def preconditioned(self, x, k, floor):
        """x times Adafactor's 1/sqrt of the k-th factored moment."""
        if not self.factored:
            return x / np.sqrt(self.full[k] + floor)
        row, col = self.row[k], self.col[k]
        # The second largest axis, counted among those that the row statistic keeps.
        axis = self.second - (self.second > self.largest)
        row = row / (row.mean(axis=axis, keepdims=True) + 1e-9)
        row, col = np.maximum(row, 1e-9), np.maximum(col, 1e-9)
        return x / np.sqrt(np.expand_dims(row, self.largest)) / np.sqrt(np.expand_dims(col, self.second))

    def tiled(self, k, which):
        if not self.factored:
            return self.full[k]
        part, axis = (self.row[k], self.largest) if which == "row" else (self.col[k], self.second)
        return np.repeat(np.expand_dims(part, axis), self.v.shape[axis], axis=axis)

    def step(self, g, p):
        g = np.clip(np.asarray(g, np.float64), -1000.0, 1000.0)
        p = np.asarray(p, np.float64)
        self.observe(g)
        k3 = range(3)
        inputs = [
            g,
            np.clip(g, -0.1, 0.1),
            p,
            *self.m,
            self.v,
            *(m / np.sqrt(self.v + 1e-6) for m in self.m),
            1 / np.sqrt(self.v + 1e-6),
            *(self.preconditioned(g, k, 1e-9) for k in k3),
            g / np.sqrt(self.v + 1e-6),
            *(self.tiled(k, "row") for k in k3),
            *(self.tiled(k, "col") for k in k3),
            *(1 / np.sqrt(self.tiled(k, "row") + 1e-8) for k in k3),
            *(1 / np.sqrt(self.tiled(k, "col") + 1e-8) for k in k3),
            *(self.preconditioned(self.m[k], k, 0.0) for k in k3),
        ]
        assert len(inputs) == 30
        x = np.stack([x / np.sqrt(1e-5 + np.mean(x**2)) for x in inputs], axis=-1)
        for layer in (0, 1):
            x = np.maximum(x @ self.theta[f"w{layer}"] + self.theta[f"b{layer}"], 0.0)
        out = x @ self.theta["w2"] + self.theta["b2"]
        return -0.001 * out[..., 0] * np.exp(0.001 * out[..., 1]) * np.sqrt(np.mean(p**2) + 1e-9)


@pytest.fixture(scope="module")
def twenty_steps(theta):
    """(ours, reference): the updates of each tensor over 20 random steps, ours jitted in float32."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in TENSORS.items()}
    # From 1e-4 to 1e3 and beyond the clipping, one size for each tensor and step.
    sizes = 10.0 ** rng.uniform(-4, 4, size=(20, len(TENSORS)))
    grads = {
        name: (rng.normal(size=(20, *shape)) * size.reshape(-1, *[1] * len(shape))).astype(np.float32)
        for size, (name, shape) in zip(sizes.T, TENSORS.items(), strict=True)
    }
    rule = UpdateRule()

    @jax.jit
    def run(params, grads):
        def step(carry, grad):
            params, state = carry
            updates, state = rule.update(theta, grad, state, params, value=jnp.zeros(()))
            return (jax.tree.map(jnp.add, params, updates), state), (params, updates)

        return jax.lax.scan(step, (params, rule.init(theta, params, jnp.int32(1))), grads)[1]

    seen, ours = run(params, grads)
    reference = {}
    for name, shape in TENSORS.items():
        slow = Reference(theta, shape)
        reference[name] = np.stack(
            [slow.step(g, p) for g, p in zip(grads[name], np.asarray(seen[name]), strict=True)]
        )
    return ours, reference


@pytest.mark.parametrize("name", TENSORS)
def test_rule_is_its_definition(twenty_steps, name):
    ours, reference = twenty_steps[0][name], twenty_steps[1][name]
    assert ours.shape == reference.shape == (20, *TENSORS[name])
    assert ours.dtype == np.float32
    scale = np.abs(reference).reshape(20, -1).max(axis=1).reshape(20, *[1] * len(TENSORS[name]))
    np.testing.assert_allclose(ours / scale, reference / scale, rtol=0, atol=2e-4)
    assert np.all(scale > 1e-8)


def one_step(theta, grad, param):
    rule = UpdateRule()
    state = rule.init(theta, param, jnp.int32(1))
    return rule.update(theta, grad, state, param, value=jnp.zeros(()))


def test_step_is_proportional_to_the_size_of_the_tensor(theta):
    """So that a tensor of zeros hardly moves: its root mean square counts as 3.2e-5."""
    bias_only = jax.tree.map(jnp.zeros_like, theta)
    bias_only["update_rule"]["b2"] = jnp.asarray([2.0, 3.0])
    grad = jnp.asarray([1.0, -2.0])
    for param, size in [([3.0, -4.0], np.sqrt(12.5)), ([0.0, 0.0], np.sqrt(1e-9))]:
        update, _ = one_step(bias_only, grad, jnp.asarray(param))
        np.testing.assert_allclose(update, [-0.001 * 2.0 * np.exp(0.003) * size] * 2, rtol=1e-5)


def test_tensors_do_not_influence_each_other(theta):
    params = {"a": jnp.asarray([1.0, 2.0, 3.0]), "b": jnp.asarray([[5.0, 1.0]])}
    grads = {"a": jnp.asarray([0.1, -0.2, 0.3]), "b": jnp.asarray([[1.0, 4.0]])}
    together, _ = one_step(theta, grads, params)
    other, _ = one_step(theta, {**grads, "b": -grads["b"]}, params)
    np.testing.assert_array_equal(together["a"], other["a"])
    alone, _ = one_step(theta, grads["a"], params["a"])
    np.testing.assert_array_equal(together["a"], alone)


def test_bfloat16_under_strict_promotion(theta):
    """The session's promotion is strict: nothing in the rule may rest on a silent promotion."""
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    param = jnp.asarray([[1.0, -2.0], [0.5, 3.0]], jnp.bfloat16)
    update, state = one_step(theta, param, param)
    assert update.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_theta_has_154_weights(key):
    fresh = UpdateRule().init_theta(key)
    assert sum(leaf.size for leaf in jax.tree.leaves(fresh)) == 154
    assert all(not np.any(fresh["update_rule"][b]) for b in ("b0", "b1", "b2"))
    for name, fan_in in [("w0", 30), ("w1", 4), ("w2", 4)]:
        weights = fresh["update_rule"][name]
        assert weights.shape[0] == fan_in
        assert np.abs(weights).max() <= 2 / np.sqrt(fan_in)  # truncated at two deviations


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_parameters_that_are_not_real_numbers_are_refused(dtype):
    rule = UpdateRule()
    with pytest.raises(CeloError, match=jnp.dtype(dtype).name):
        rule.init(rule.init_theta(jax.random.key(0)), {"x": jnp.zeros(3, dtype)}, jnp.int32(1))


def test_mirrored_weights_begin_as_an_odd_function_of_what_points_downhill():
    """Turning gradient and momenta around turns the direction around, up to inputs that have no sign."""
    theta = UpdateRule().init_theta(jax.random.key(3))[GROUP]
    theta = {**theta, "w0": theta["w0"].at[jnp.array([2, 6, 10, *range(15, 27)])].set(0.0)}  # no sign, or p
    params = {"w": jax.random.normal(jax.random.key(0), (6, 5))}
    grads = jax.tree.map(jnp.cos, params)

    def direction(theta, sign):
        rule = UpdateRule()
        state = rule.init({GROUP: theta}, params, jnp.int32(10))
        updates, _ = rule.update(
            {GROUP: theta}, {"w": sign * grads["w"]}, state, params, value=jnp.float32(0)
        )
        return updates["w"]

    start = mirrored(theta)
    np.testing.assert_allclose(direction(start, -1.0), -direction(start, 1.0), rtol=5e-3, atol=1e-8)
    assert jnp.max(jnp.abs(direction(theta, -1.0) + direction(theta, 1.0))) > 1e-5
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, theta)


@pytest.mark.parametrize("shape", [(300,), (40, 30), (3, 3, 8, 12)])
def test_inputs_computed_twice_give_the_same_step(shape, noisy_theta, monkeypatch):
    rule = UpdateRule()
    theta, params = noisy_theta(rule), {"x": jax.random.normal(jax.random.key(0), shape)}
    grads = jax.tree.map(jnp.sin, params)

    def steps():
        state = rule.init(theta, params, jnp.int32(1))
        for _ in range(3):
            updates, state = rule.update(theta, grads, state, params, value=jnp.zeros(()))
        return updates["x"]

    kept = steps()
    monkeypatch.setattr(rule_network, "LARGE", 1)
    np.testing.assert_allclose(steps(), kept, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(1024, 512), (3, 3, 256, 256)])
def test_a_large_tensor_needs_sixteen_bytes_a_parameter_for_a_while(shape):
    """Of temporaries, XLA's own account, where state and parameters are donated."""
    jax.config.update("jax_disable_most_optimizations", False)
    rule = UpdateRule()
    theta, params = rule.init_theta(jax.random.key(0)), {"x": jax.ShapeDtypeStruct(shape, jnp.float32)}
    state = jax.eval_shape(lambda p: rule.init(theta, p, jnp.int32(1)), params)

    def step(params, state, grads):
        updates, state = rule.update(theta, grads, state, params, value=jnp.zeros(()))
        return jax.tree.map(jnp.add, params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    jax.config.update("jax_disable_most_optimizations", True)
    assert compiled.memory_analysis().temp_size_in_bytes <= 16.5 * params["x"].size


@pytest.mark.parametrize("kernel", ["xla", "auto"])
@pytest.mark.parametrize(
    ("made_for", "now"),
    [
        ((100, 16), (128, 16)),  # a vocabulary that grew
        ((1, 8), (4, 8)),  # would broadcast
        ((3,), (3, 3)),
        ((2, 3, 4), (24,)),
    ],
    ids=str,
)
def test_a_state_of_other_parameters_is_refused(made_for, now, kernel, theta):
    tx = scale_by_celo_rule(theta, kernel=kernel)
    params = {"embedding": jnp.ones(now)}
    with pytest.raises(CeloError, match=r"params\['embedding'\] has shape .* its state .* tx.init\(params\)"):
        tx.update(params, tx.init({"embedding": jnp.ones(made_for)}), params)


def test_a_state_of_another_per_layer_is_refused(theta):
    params = {"blocks": jnp.ones((9, 4, 8))}
    state = scale_by_celo_rule(theta, per_layer=1).init(params)
    with pytest.raises(CeloError, match="another per_layer"):
        scale_by_celo_rule(theta).update(params, state, params)


def test_a_gradient_of_another_shape_is_refused(theta):
    tx, params = scale_by_celo_rule(theta), {"w": jnp.ones((4, 8))}
    with pytest.raises(CeloError, match=r"params\['w'\] has shape \(4, 8\), and its gradient \(1, 8\)"):
        tx.update({"w": jnp.ones((1, 8))}, tx.init(params), params)
