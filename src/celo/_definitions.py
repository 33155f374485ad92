"""What defines the optimizers whatever computes them: constants, the order of inputs, and rules about shapes.

JAX, C++ and PyTorch forms share these; `rule.cc` and `orthogonal.cc` repeat some, and tests compare them.
"""

import math
from itertools import accumulate

# ---------------------------------------------------------------------- Celo's update rule (section 3)

GRADIENT_LIMIT = 1000.0  # what every published rule clips gradients to
MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
FACTORED_DECAYS = (0.9, 0.99, 0.999)
FACTORED_FLOOR = 1e-30  # added to g² inside the factored moments, so that they are never zero
INPUT_FLOOR = 1e-5  # added to the mean square that an input is normalised by
CLIPPED_GRADIENT = 0.1  # the second input is the gradient clipped to this
STEP_SCALE, MAGNITUDE_SCALE = 1e-3, 1e-3
RULE_STEP = (
    0.01  # about what a step of meta-trained rules is, as a share of a tensor's size: decay is in its units
)
RMS_FLOOR = 1e-9  # inside the root: a tensor of zeros counts as 3.2e-5

# Inputs by name, in the order of the rows of `w0`, and how many each has: one for every decay, or one.
INPUTS = {
    "grad": 1,
    "clipped_grad": 1,
    "param": 1,
    "momentum": 3,
    "second_moment": 1,
    "momentum_over_rms": 3,
    "inverse_rms": 1,
    "factored_grad": 3,
    "grad_over_rms": 1,
    "row": 3,
    "col": 3,
    "inverse_row": 3,
    "inverse_col": 3,
    "factored_momentum": 3,
}
NUM_INPUTS, HIDDEN, NUM_OUTPUTS = sum(INPUTS.values()), 4, 2
RULE_WEIGHTS = ("w0", "b0", "w1", "b1", "w2", "b2")  # in the order in which the native kernel reads them
# Name -> the first row of `w0` that belongs to it.
FIRST_ROW = dict(zip(INPUTS, accumulate(INPUTS.values(), initial=0), strict=False))


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axes (largest, second largest) that a factored second moment averages over.

    Among equal sizes the later axis counts as larger. None for fewer than two axes.
    """
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-1], order[-2]


def memory_layout(shape: tuple[int, ...]) -> tuple[list[int], bool]:
    """(sizes, row_along): how the factored axes lie in memory, as the native kernel is told.

    A tensor with two or more axes is [outer, a, middle, b, inner] with a and b its factored axes; others
    are one line, [size]. `row_along` says that the row moment is the one averaged over b.
    """
    axes = factored_axes(shape)
    if axes is None:
        return [math.prod(shape)], False
    a, b = sorted(axes)
    between = [shape[:a], shape[a : a + 1], shape[a + 1 : b], shape[b : b + 1], shape[b + 1 :]]
    return [math.prod(sizes) for sizes in between], axes[0] == b


# -------------------------------------------------------------------------------- orthogonalised steps

POLYNOMIALS = (  # a x + b x³ + c x⁵, one after another; see `_kernels.orthogonal`
    (8.298703, -24.430498, 18.090304),
    (3.915221, -2.92113, 0.559223),
    (3.174604, -2.380433, 0.497826),
    (2.189463, -1.567221, 0.407887),
)
SMALLEST, LARGEST = 1e-30, 1e37  # a matrix whose largest entry is not between these stays as it is
THINNEST = 4  # rows or columns, whichever are fewer, of a tensor that counts as a matrix


def matrix_shape(
    shape: tuple[int, ...], layers: int = 0, *, outputs_first: bool = False
) -> tuple[int, int] | None:
    """(rows, columns) of each matrix in a tensor whose first `layers` axes count matrices.

    Of a tensor with more axes, neighbours are merged. Four or more are a convolution's: in JAX
    [height, width, in, out], a matrix [height * width * in, out], and where outputs come first, as in
    PyTorch, [out, in, height, width], a matrix [out, in * height * width]. Three are an attention's, or those
    of a convolution along a line, and are merged so that the matrix is as nearly square as it can be:
    [in, heads, size] is [in, heads * size], and [heads, size, out] is [heads * size, out].

    Returns:
      None for a tensor that is no matrix, or too thin for one.
    """
    axes = shape[layers:]
    if len(axes) < 2:
        return None
    cuts = (1, 2) if len(axes) == 3 else (1,) if outputs_first else (len(axes) - 1,)
    splits = [(math.prod(axes[:cut]), math.prod(axes[cut:])) for cut in cuts]
    matrix = max(splits, key=lambda split: (min(split), split[0]))
    return matrix if min(matrix) >= THINNEST else None


# -------------------------------------------------------------------- the learned schedule (section 3)

UNITS = 64
TIME_CENTRES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # shares of the horizon
NUM_LOSS_AVERAGES = 10
SHORTEST_AVERAGE = 10.0  # steps
SCHEDULE_INPUTS = len(TIME_CENTRES) + NUM_LOSS_AVERAGES - 1
STEP_SIZE_SCALE = 0.1
REFERENCE_HORIZON = 1_000.0  # steps: where the weight `horizon_w` changes nothing

# -------------------------------------------------------------------------------- VeLO (arXiv 2211.09760)

MOST_AXES = 4  # tensors of more axes that are longer than one have no place among its inputs
SMALLEST_SQUARE = 1e-9  # a tensor's mean square counts as at least this
TENSOR_INPUTS = 1 + (MOST_AXES + 1) + 2 * len(MOMENTUM_DECAYS)  # of one tensor by itself
VELO_INPUTS = SCHEDULE_INPUTS + TENSOR_INPUTS

# -------------------------------------------------------------------------------- Celo-Adam (appendix)

ADAM_DECAYS = (0.9, 0.999)
ADAM_ROOT_FLOOR, ADAM_FLOOR = 1e-10, 1e-8  # added inside the root, and to it

# ------------------------------------------------- AdaFac-MLP (arXiv 2203.11860), RNN-MLP (arXiv 2009.11243)

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # steps
LARGEST_GRADIENT = 1e15  # where a rule clips none: sums of squares of larger ones are infinite in float32

# -------------------------------------------------------------------------------- numbers that are not finite

POLICIES = ("repair", "hold", "skip", "shrink")  # `celo.guard_nonfinite` says what each does
SMALLEST_SCALE = 2.0**-10  # of "shrink"
DOUBLING_STEPS = 100  # good steps in which a scale of "shrink" doubles
