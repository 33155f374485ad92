"""AdaFac-MLP, RNN-MLP and NN-Adam once more, in NumPy and float64: straight-line, tensor by tensor.

Each function takes θ in our layout, parameters by name, gradients by name [steps, …] and losses [steps], and
returns the parameters by name before the first and after each step [steps + 1, …]. Nothing is guarded against
numbers that are not finite, as nothing is in the published code.
"""

import numpy as np

SCALES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def _relu(x):
    return np.maximum(x, 0.0)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _lstm(x, hidden, cell, own):
    gates = np.concatenate([x, hidden], axis=1) @ own["lstm_w"] + own["lstm_b"]
    write, candidate, forget, read = np.split(gates, 4, axis=1)
    cell = _sigmoid(forget + 1.0) * cell + _sigmoid(write) * np.tanh(candidate)
    return _sigmoid(read) * np.tanh(cell), cell


def _normalised(columns):
    """[size, n] columns, each over its root mean square."""
    x = np.stack([np.asarray(c, float).ravel() for c in columns], axis=1)
    return x / np.sqrt(1e-5 + np.mean(x**2, axis=0))


def _network(x, own):
    x = _relu(x @ own["w0"] + own["b0"])
    x = _relu(x @ own["w1"] + own["b1"])
    return x @ own["w2"] + own["b2"]


def _log(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5)


def _doubles(theta, group):
    return {name: np.asarray(x, np.float64) for name, x in theta[group].items()}


def _factors(row, col, mean_axis):
    """1/sqrt of Adafactor's estimate of the second moment."""
    share = row / (row.mean(axis=mean_axis, keepdims=True) + 1e-9)
    return 1 / np.sqrt(np.maximum(share, 1e-9)), 1 / np.sqrt(np.maximum(col, 1e-9))


def adafac_mlp(theta, params, grads, losses):
    own = _doubles(theta, "adafac_mlp")

    def decays(offsets, start):
        return 1 - np.exp(10 * (np.log(1 - np.array(start)) / 10 + offsets))

    beta_m = decays(own["momentum_decays"], (0.9, 0.99, 0.999))
    beta_v = np.clip(decays(own["second_moment_decay"], 0.999), 0, 1)
    beta_f = np.clip(decays(own["factored_decays"], (0.9, 0.99, 0.999)), 0, 1)
    paths = {}
    for name, start in params.items():
        p = np.asarray(start, np.float64)
        m, f_row, f_col, v = [0.0] * 3, [0.0] * 3, [0.0] * 3, 0.0
        largest, second = ([*np.argsort(p.shape, kind="stable")[::-1], None, None])[:2]
        path = [p]
        for t in range(len(losses)):
            g = np.asarray(grads[name][t], np.float64)
            m = [b * x + (1 - b) * g for b, x in zip(beta_m, m, strict=True)]
            v = beta_v * v + (1 - beta_v) * g**2
            square, inverse = g**2 + 1e-30, 1 / np.sqrt(v + 1e-6)
            columns = [g, p, *m, v, *(x * inverse for x in m), inverse]
            if p.ndim < 2:
                f_row = [b * x + (1 - b) * square for b, x in zip(beta_f, f_row, strict=True)]
                row = col = f_row
                columns += [g / np.sqrt(np.maximum(x + 1e-9, 1e-9)) for x in f_row]
                last = [mm / np.sqrt(x + 1e-6) for mm, x in zip(m, f_row, strict=True)]
            else:
                by_row = square.mean(axis=largest, keepdims=True)
                by_col = square.mean(axis=second, keepdims=True)
                f_row = [b * x + (1 - b) * by_row for b, x in zip(beta_f, f_row, strict=True)]
                f_col = [b * x + (1 - b) * by_col for b, x in zip(beta_f, f_col, strict=True)]
                scale = [np.multiply(*_factors(r, c, second)) for r, c in zip(f_row, f_col, strict=True)]
                row, col = ([np.broadcast_to(x, p.shape) for x in xs] for xs in (f_row, f_col))
                columns += [g * s for s in scale]
                last = [mm * s for mm, s in zip(m, scale, strict=True)]
            columns += [*row, *col]
            columns += [1 / np.sqrt(x + 1e-8) for x in (*row, *col)]
            x = _normalised([*columns, *last])
            time = np.broadcast_to(np.tanh(t / SCALES - 1), (len(x), 11))
            direction, magnitude = _network(np.concatenate([x, time], axis=1), own).T
            p = p - (0.001 * direction * np.exp(0.001 * magnitude)).reshape(p.shape)
            path.append(p)
        paths[name] = np.stack(path)
    return paths


def rnn_mlp(theta, params, grads, losses):
    own = _doubles(theta, "rnn_mlp")
    decays = (0.5, 0.9, 0.99, 0.999, 0.9999)
    names, n = list(params), len(params)
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    m, v = ({name: [0.0] * 5 for name in names} for _ in range(2))
    hidden, cell = np.tile(own["h0"], (n, 1)), np.tile(own["c0"], (n, 1))
    told_back, across = np.tile(own["first_from_network"], (n, 1)), own["first_across"]
    mean = variance = 0.0
    size = 0.01
    paths = {name: [x] for name, x in p.items()}
    for t, loss in enumerate(losses):
        mean = 0.9 * mean + 0.1 * loss
        variance = 0.9 * variance + 0.1 * (mean - loss) ** 2
        c = 1 / (1 - 0.9 ** (t + 1) + 1e-8)
        heard = [np.clip((x - mean * c) / np.sqrt(variance * c + 1e-8), -5, 5) for x in (loss, 0.0)]
        limit = 10 * size / (1 - 0.99 ** (t + 1))
        g = {name: np.clip(np.asarray(grads[name][t], np.float64), -limit, limit) for name in names}
        size = 0.99 * size + 0.01 * np.sqrt(1e-8 + np.mean([np.mean(x**2) for x in g.values()]))
        rows = []
        for i, name in enumerate(names):
            m[name] = [b * x + (1 - b) * g[name] for b, x in zip(decays, m[name], strict=True)]
            v[name] = [b * x + (1 - b) * g[name] ** 2 for b, x in zip(decays, v[name], strict=True)]
            mm, vv, x = np.array(m[name]), np.array(v[name]), p[name]
            sizes = [*x.shape, 1, 1, 1, 1][:4]
            own_inputs = [_log(np.sqrt(np.sum(g[name] ** 2))), 1.0 if x.ndim == 0 else -1.0]
            for array in (mm, vv, x):
                own_inputs += [_log(array.mean()), np.sign(array.mean())]
            own_inputs += [_log(np.sqrt(np.sum(x**2))), *(np.log(sizes) - 1.0)]
            spread = [_log(array.var()) for array in (mm, vv, x)]
            rows.append([*across, *told_back[i], *own_inputs, *heard, *spread])
        hidden, cell = _lstm(np.array(rows), hidden, cell, own)
        across = np.mean(hidden @ own["across_w"] + own["across_b"], axis=0)
        told = hidden @ own["to_network_w"] + own["to_network_b"]
        back = []
        for i, name in enumerate(names):
            x, inverse = p[name], [1 / np.sqrt(a + 1e-6) for a in v[name]]
            scaled = [a * b for a, b in zip(m[name], inverse, strict=True)]
            logarithm = np.log(np.abs(x) + 1e-8)
            columns = _normalised([g[name], x, logarithm, *m[name], *v[name], *scaled, *inverse])
            norm = np.log(np.sqrt(np.sum(x**2)) + 1e-8)
            shared = [*np.sin(t / (SCALES * np.pi)), np.log(n) - 1, norm, np.log(x.size), *told[i]]
            out = _network(np.concatenate([columns, np.tile(shared, (x.size, 1))], axis=1), own)
            p[name] = x - (0.001 * out[:, 0] * np.exp(0.001 * out[:, 1])).reshape(x.shape)
            back.append(out[:, 2:].mean(axis=0))
            paths[name].append(p[name])
        told_back = np.array(back)
    return {name: np.stack(path) for name, path in paths.items()}


def nn_adam(theta, params, grads, losses):
    own = _doubles(theta, "nn_adam")
    names, n = list(params), len(params)
    p = {name: np.asarray(x, np.float64) for name, x in params.items()}
    m, v = (dict.fromkeys(names, 0.0) for _ in range(2))
    hidden, cell = np.tile(own["h0"], (n, 1)), np.tile(own["c0"], (n, 1))
    settings = np.tile(own["hyperparameters"], (n, 1))
    paths = {name: [x] for name, x in p.items()}

    def values(x):
        """Learning rate, decays and epsilon."""
        decays = 1 - np.exp(np.clip(10 * x[1:3], -10, 0))
        return np.clip(np.exp(10 * x[0]), 1e-8, 1e3), *decays, np.clip(np.exp(10 * x[3]), 1e-11, 1e4)

    for t in range(len(losses)):
        rows = []
        for i, name in enumerate(names):
            g, x = np.clip(np.asarray(grads[name][t], np.float64), -1000, 1000), p[name]
            rate, first, second, epsilon = values(settings[i])
            m[name] = first * m[name] + (1 - first) * g
            v[name] = second * v[name] + (1 - second) * g**2
            now = np.clip(settings[i], -5, 5) / 5
            inputs = [
                now[1],
                now[2],
                now[3],
                1.0 if x.ndim == 1 else -1.0,
                1.0 if x.ndim == 0 else -1.0,
                now[0],
            ]
            inputs += [_log(g.mean()) / 2, np.sign(g.mean()), _log(np.abs(g).mean()) / 2]
            for array in (m[name], x, v[name]):
                inputs += [_log(array.mean()) / 2, np.sign(array.mean())]
            inputs += [_log(array.var()) / 2 for array in (g, m[name], x, v[name])]
            rows.append(inputs)
            p[name] = x - rate * (1 + epsilon) / (epsilon + np.sqrt(v[name] + 1e-10)) * m[name]
            paths[name].append(p[name])
        hidden, cell = _lstm(np.array(rows), hidden, cell, own)
        settings = settings + 0.01 * (hidden @ own["out_w"] + own["out_b"])
        for i in range(n):
            rate, first, second, epsilon = values(settings[i])
            settings[i] = 0.1 * np.log([rate, 1 - first, 1 - second, epsilon])
    return {name: np.stack(path) for name, path in paths.items()}
