"""What defines the optimizers whatever computes them: constants, the order of inputs, and rules about shapes.

JAX, C++ and PyTorch forms share these; `rule.cc` and `orthogonal.cc` repeat some, and tests compare them.
"""

import dataclasses
import math
from itertools import accumulate

# ---------------------------------------------------------------------- Celo's update rule (section 3)

GRADIENT_LIMIT = 1000.0  # what every published rule clips gradients to
MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
FACTORED_DECAYS = (0.9, 0.99, 0.999)
FACTORED_FLOOR = 1e-30  # added to g² inside the factored moments, so that they are never zero
SECOND_MOMENT_FLOOR = 1e-6  # added to the second moment in its inverse root
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
NUM_INPUTS, HIDDEN = sum(INPUTS.values()), 4
RULE_WEIGHTS = ("w0", "b0", "w1", "b1", "w2", "b2")  # in the order in which the native kernel reads them
# Name -> the first row of `w0` that belongs to it.
FIRST_ROW = dict(zip(INPUTS, accumulate(INPUTS.values(), initial=0), strict=False))


@dataclasses.dataclass(frozen=True)
class RuleNetwork:
    """What is different between learned rules of one make: 30 inputs -> hidden -> hidden -> a step.

    Attributes:
      name: of its native kernel.
      hidden: units of each hidden layer.
      says_length: whether the network says how long a step is, too, in units of the tensor's size. Without, a
        step is a bare direction.
      second_moment_decay: of the second moment that is not factored.
      second_moment_floor: added to that in its inverse root.
      input_floor: added to the mean square that an input is normalised by.
      matrices_apart: whether that mean is over the last two axes, each matrix of a tensor with more being
        normalised by itself, or over the whole tensor.
      matrix_inputs: what a tensor with two or more axes is fed.
      vector_inputs: what one with fewer is fed.
      vector_floor: added to the second moment that divides the momenta of such a tensor.
    """

    name: str
    hidden: int
    says_length: bool
    second_moment_decay: float
    second_moment_floor: float
    input_floor: float
    matrices_apart: bool
    matrix_inputs: tuple[str, ...] = tuple(INPUTS)
    vector_inputs: tuple[str, ...] = tuple(INPUTS)
    vector_floor: float = 0.0

    @property
    def outputs(self) -> int:
        """A direction, and perhaps a magnitude."""
        return 2 if self.says_length else 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights, by name."""
        units = (NUM_INPUTS, self.hidden, self.hidden, self.outputs)
        layers = range(len(units) - 1)
        return {f"w{i}": (units[i], units[i + 1]) for i in layers} | {
            f"b{i}": (units[i + 1],) for i in layers
        }

    def inputs(self, axes: int) -> tuple[str, ...]:
        """Names of the inputs of a tensor with that many axes."""
        return self.matrix_inputs if axes >= 2 else self.vector_inputs


CELO = RuleNetwork(
    "celo",
    hidden=HIDDEN,
    says_length=True,
    second_moment_decay=SECOND_MOMENT_DECAY,
    second_moment_floor=SECOND_MOMENT_FLOOR,
    input_floor=INPUT_FLOOR,
    matrices_apart=False,
)
CELO2 = RuleNetwork(  # arXiv 2602.19142
    "celo2",
    hidden=8,
    says_length=False,
    second_moment_decay=0.95,
    second_moment_floor=1e-8,
    input_floor=1e-9,
    matrices_apart=True,
    vector_inputs=tuple(INPUTS)[: list(INPUTS).index("row")],
)


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


@dataclasses.dataclass(frozen=True)
class PolarIteration:
    """How a matrix is brought near its polar factor; see `_kernels.orthogonal`.

    Attributes:
      polynomials: (a, b, c) of a x + b x³ + c x⁵, one after another, applied to the singular values.
      by_trace: whether the matrix is scaled by its own Frobenius norm first, or by a closer bound on its
        largest singular value.
    """

    polynomials: tuple[tuple[float, float, float], ...]
    by_trace: bool


POLYNOMIALS = (
    (8.298703, -24.430498, 18.090304),
    (3.915221, -2.92113, 0.559223),
    (3.174604, -2.380433, 0.497826),
    (2.189463, -1.567221, 0.407887),
)
POLAR = PolarIteration(POLYNOMIALS, by_trace=False)
MUON = PolarIteration(((3.4445, -4.7750, 2.0315),) * 5, by_trace=True)  # Muon's and Celo2's
SMALLEST, LARGEST = 1e-30, 1e37  # a matrix whose largest entry is not between these stays as it is
ZERO_SIZE = math.sqrt(2.0 * RMS_FLOOR)  # a matrix of a smaller size counts as one of zeros
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


def usual_size(matrix: tuple[int, int]) -> float:
    """The root mean square of usual initial weights of so many rows and columns, with the more as inputs."""
    return 1.0 / math.sqrt(max(matrix))


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
MIXTURE_SCALES = {"velo_s": 1.0, "velo": 1.0, "velo_4000": 100.0}  # by architecture

# -------------------------------------------------------------------------------- Celo-Adam (appendix)

ADAM_DECAYS = (0.9, 0.999)
ADAM_ROOT_FLOOR, ADAM_FLOOR = 1e-10, 1e-8  # added inside the root, and to it

# ------------------------------------------------------------------------------------ Celo2's other parts

CELO2_STEP = 1e-3  # what it is meta-trained with: the learning rate of its rule
CELO2_DIRECTION_FLOOR = 1e-9  # added to the mean square that a direction is normalised by
CELO2_ADAM_DECAYS, CELO2_ADAM_FLOOR = (0.9, 0.95), 1e-8  # the floor is inside the root
CELO2_ADAM_MULTIPLIER = 20.0  # learning rates of the rule that Adam's is

# ------------------------------------------------- AdaFac-MLP (arXiv 2203.11860), RNN-MLP (arXiv 2009.11243)

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # steps
LARGEST_GRADIENT = 1e15  # where a rule clips none: sums of squares of larger ones are infinite in float32

# -------------------------------------------------------------------------------- numbers that are not finite

POLICIES = ("repair", "hold", "skip", "shrink")  # `celo.guard_nonfinite` says what each does
SMALLEST_SCALE = 2.0**-10  # of "shrink"
DOUBLING_STEPS = 100  # good steps in which a scale of "shrink" doubles
