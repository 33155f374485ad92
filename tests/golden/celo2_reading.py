"""Celo2 once more, from the paper's equations and the published code's quirks: NumPy, one tensor at a time.

All is float64. Nothing of the library is used.
"""

import numpy as np

DECAYS, SECOND = np.array([0.9, 0.99, 0.999]), 0.95


def unit(x, floor):
    """x over its root mean square in the last two axes, or the only one."""
    axes = tuple(range(max(0, x.ndim - 2), x.ndim))
    return x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + floor)


def newton_schulz(x):
    if x.shape[-2] > x.shape[-1]:
        return np.swapaxes(newton_schulz(np.swapaxes(x, -1, -2)), -1, -2)
    x = x / (np.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        gram = x @ np.swapaxes(x, -1, -2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Rule:
    """The statistics of one tensor, and its directions, uphill."""

    def __init__(self, theta, shape, orthogonalize):
        self.theta = {name: np.asarray(array, np.float64) for name, array in theta.items()}
        self.shape, self.orthogonalize = shape, orthogonalize
        shape = shape or (1,)
        order = sorted(range(len(shape)), key=lambda axis: shape[axis])
        self.axes = (order[-1], order[-2]) if len(shape) > 1 else None
        self.momenta, self.second, self.factors = np.zeros((3, *shape)), np.zeros(shape), [0.0, 0.0]

    def __call__(self, grad, param):
        grad, param = grad.reshape(self.shape or (1,)), param.reshape(self.shape or (1,))
        grad = np.clip(np.where(np.isnan(grad), 0.0, grad), -1000, 1000)
        decay = DECAYS.reshape(3, *[1] * grad.ndim)
        self.momenta = decay * self.momenta + (1 - decay) * grad
        self.second = SECOND * self.second + (1 - SECOND) * grad**2
        inverse = 1 / np.sqrt(self.second + 1e-8)
        square = grad**2 + 1e-30
        means = (
            [square] if self.axes is None else [np.mean(square, axis, keepdims=True) for axis in self.axes]
        )
        self.factors = [
            decay * old + (1 - decay) * now for old, now in zip(self.factors, means, strict=False)
        ]
        if self.axes is None:
            by = 1 / np.sqrt(np.maximum(self.factors[0] + 1e-9, 1e-9))
        else:
            row, col = self.factors
            share = row / (np.mean(row, self.axes[1] + 1, keepdims=True) + 1e-9)
            by = 1 / np.sqrt(np.maximum(share, 1e-9)) / np.sqrt(np.maximum(col, 1e-9))
        inputs = [
            *(grad[None], np.clip(grad, -0.1, 0.1)[None], param[None], self.momenta, self.second[None]),
            *(self.momenta * inverse, inverse[None], grad * by, (grad * inverse)[None]),
        ]
        if self.axes is not None:
            inputs += [row, col, 1 / np.sqrt(row + 1e-8), 1 / np.sqrt(col + 1e-8), self.momenta * by]
        rows = [np.broadcast_to(unit(x, 1e-9), grad.shape) for group in inputs for x in group]
        hidden = np.stack(rows, axis=-1) @ self.theta["w0"][: len(rows)] + self.theta["b0"]
        hidden = np.maximum(hidden, 0) @ self.theta["w1"] + self.theta["b1"]
        direction = (np.maximum(hidden, 0) @ self.theta["w2"] + self.theta["b2"])[..., 0]
        if self.orthogonalize and direction.ndim > 1:
            direction = newton_schulz(direction)
        return unit(direction, 1e-9).reshape(self.shape)


class Adam:
    """Of the tensors that Adam takes: 20 times as long, no bias correction."""

    def __init__(self):
        self.first = self.second = 0.0

    def __call__(self, grad, param):
        self.first = 0.9 * self.first + 0.1 * grad
        self.second = 0.95 * self.second + 0.05 * grad**2
        return 20 * self.first / np.sqrt(self.second + 1e-8)


def run(theta, params, grads, *, orthogonalize=True, by_adam=(), rate=1e-3):
    """{tensor: its path [steps + 1, …]} of training on these gradients, whatever the parameters are."""
    paths = {}
    for name, param in params.items():
        now = np.asarray(param, np.float64)
        step = Adam() if name in by_adam else Rule(theta["update_rule"], now.shape, orthogonalize)
        path = [now]
        for grad in np.asarray(grads[name], np.float64):
            path.append(path[-1] - rate * step(grad, path[-1]))
        paths[name] = np.stack(path)
    return paths
