"""VeLO once more, from the paper's equations and the published code's quirks: NumPy, one tensor at a time.

All is float64 but the averages of the loss: their features are quotients of tiny differences, in which the
published code's float32 shows. Nothing of the library is used.
"""

import numpy as np

F = np.float32
MOMENTUM, SECOND, FACTORED = (0.9, 0.99, 0.999), 0.999, (0.9, 0.99, 0.999)
CENTRES = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])


class Losses:
    def __init__(self, num_steps):
        half_lives = np.power(F(10), np.linspace(F(1), np.log10(F(num_steps)), 10, dtype=F))
        self.decays = np.exp(F(-1) / half_lives)
        self.means, self.minima, self.count = np.zeros(10, F), np.full(10, F(1e12)), 0

    def features(self, loss):
        loss = F(loss)
        if self.count:
            largest = (self.means / (1 - self.decays ** F(self.count + 1))).max()
            loss = min(loss, 2 * abs(largest))
        self.means = self.means * self.decays + loss * (1 - self.decays)
        self.count += 1
        means = self.means / (1 - self.decays ** F(self.count))
        self.minima = np.minimum(self.minima, means)
        if self.count <= 2:
            return np.zeros(9)
        floor = self.minima[:-1]
        ratio = (means[:-1] - floor) / np.maximum(F(1e-8), means[1:] - floor)
        return np.clip(ratio - 1, -1, 1).astype(np.float64)


class Tensor:
    def __init__(self, param):
        self.param = np.atleast_1d(np.asarray(param, np.float64))
        shape = self.param.shape
        self.axes = (
            np.argsort(shape, kind="stable")[-2:] if len(shape) > 1 else None
        )  # second largest, largest
        self.momenta = np.zeros((3, *shape))
        self.second = np.zeros(shape)
        self.row, self.col = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        self.rank = sum(size > 1 for size in shape)

    def heard(self):
        """Twelve numbers, from the statistics before this step's gradient."""
        scale = 1 / np.sqrt(max(1e-9, np.mean(self.param**2)))
        m, v = self.momenta * scale, self.second * scale
        mean_m = np.array([np.mean(x) for x in m])
        spread_m = np.array([np.mean((x - c) ** 2) for x, c in zip(m, mean_m, strict=True)])
        spread_v = np.array([np.mean((v - c) ** 2) for c in mean_m])
        one_hot = np.array([float(self.rank == k) for k in range(5)])

        def size(x):
            return 0.5 * np.clip(np.log(1e-8 + 10 * np.abs(x)), -5, 5)

        return np.concatenate([size([np.mean(v)]), one_hot, size(spread_m), size(spread_v)])

    def observe(self, grad):
        g = self.grad = np.clip(np.asarray(grad, np.float64).reshape(self.param.shape), -1000, 1000)
        self.momenta = np.array([d * m + (1 - d) * g for d, m in zip(MOMENTUM, self.momenta, strict=True)])
        self.second = SECOND * self.second + (1 - SECOND) * g**2
        square = g**2 + 1e-30
        if self.axes is None:
            now = (square, 0.0)
        else:
            second, largest = self.axes
            now = (square.mean(largest, keepdims=True), square.mean(second, keepdims=True))
        self.row = [d * r + (1 - d) * now[0] for d, r in zip(FACTORED, self.row, strict=True)]
        self.col = [d * c + (1 - d) * now[1] for d, c in zip(FACTORED, self.col, strict=True)]

    def inputs(self):
        g, p, m, v = self.grad, self.param, list(self.momenta), self.second
        inverse = 1 / np.sqrt(v + 1e-6)
        if self.axes is None:
            rows, cols = self.row, self.row
            of_grad = [g / np.sqrt(np.maximum(r + 1e-9, 1e-9)) for r in rows]
            of_momentum = [x * r**-0.5 for x, r in zip(m, rows, strict=True)]
        else:
            rows = [np.broadcast_to(r, p.shape) for r in self.row]
            cols = [np.broadcast_to(c, p.shape) for c in self.col]
            whole = [r.mean(self.axes[0], keepdims=True) for r in self.row]
            factors = [
                1 / np.sqrt(np.maximum(r / (w + 1e-9), 1e-9)) / np.sqrt(np.maximum(c, 1e-9))
                for r, w, c in zip(self.row, whole, self.col, strict=True)
            ]
            of_grad = [g * f for f in factors]
            of_momentum = [x * f for x, f in zip(m, factors, strict=True)]
        inputs = [
            g,
            np.clip(g, -0.1, 0.1),
            p,
            *m,
            v,
            *(x * inverse for x in m),
            inverse,
            *of_grad,
            g * inverse,
        ]
        inputs += [
            *rows,
            *cols,
            *(1 / np.sqrt(r + 1e-8) for r in rows),
            *(1 / np.sqrt(c + 1e-8) for c in cols),
        ]
        inputs = np.stack([*inputs, *of_momentum], axis=-1)
        axes = tuple(range(p.ndim))
        return inputs / np.sqrt(1e-5 + np.mean(inputs**2, axis=axes, keepdims=True))

    def step(self, network, factor):
        hidden = np.maximum(0, self.inputs() @ network["w0"] + network["b0"])
        hidden = np.maximum(0, hidden @ network["w1"] + network["b1"])
        direction, magnitude = np.moveaxis(hidden @ network["w2"] + network["b2"], -1, 0)
        size = np.sqrt(np.mean(self.param**2) + 1e-9)
        self.param = self.param - factor * 0.001 * size * direction * np.exp(0.001 * magnitude)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(theta, params, grads, losses, num_steps, mixture_scale=1.0):
    """{name: [steps + 1, …]} of parameters that take the given gradients, whatever they are.

    Args:
      theta: as `celo.optimizers.Velo` has it.
      params: {name: array}; the order does not matter.
      grads: {name: [steps, …]}.
      losses: [steps].
      num_steps: the horizon.
      mixture_scale: what the mean over the bank is multiplied by.
    """
    bank, net = (
        {k: np.asarray(x, np.float64) for k, x in theta[g].items()} for g in ("rule_bank", "controller")
    )
    tensors, history = {name: Tensor(p) for name, p in params.items()}, Losses(num_steps)
    hidden, cell = dict.fromkeys(params, net["h0"]), dict.fromkeys(params, net["c0"])
    path = {name: [np.asarray(p, np.float64)] for name, p in params.items()}
    for t, loss in enumerate(losses):
        shared = np.concatenate([np.tanh(10 * (t / num_steps - CENTRES)), history.features(loss)])
        inputs = {name: np.concatenate([shared, tensor.heard()]) for name, tensor in tensors.items()}
        mixed = [np.maximum(0, x @ net["mix_w"] + net["mix_b"]) for x in inputs.values()]
        loudest = np.max(mixed, axis=0)
        for name, tensor in tensors.items():
            x = inputs[name] @ net["skip_w"] + net["skip_b"] + loudest
            gates = np.concatenate([x, hidden[name]]) @ net["lstm_w"] + net["lstm_b"]
            write, candidate, forget, read = np.split(gates, 4)
            cell[name] = sigmoid(forget + 1) * cell[name] + sigmoid(write) * np.tanh(candidate)
            hidden[name] = sigmoid(read) * np.tanh(cell[name])
            shares = hidden[name] @ net["control_w"] + net["control_b"]
            own = {
                k: mixture_scale * np.mean([c * w for c, w in zip(shares, ws, strict=True)], axis=0)
                for k, ws in bank.items()
            }
            tensor.observe(grads[name][t])
            tensor.step(own, hidden[name] @ net["step_w"] + net["step_b"])
            path[name].append(tensor.param.reshape(np.shape(params[name])))
    return {name: np.stack(points) for name, points in path.items()}
