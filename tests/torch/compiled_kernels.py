"""Run by test_triton.py: compiles Triton's kernels for a GPU that need not be there, and prints names."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from celo.torch import _triton, _triton_passes

SIZES = (*_triton._Geometry._fields, "ALIGNED")
TARGET = GPUTarget("cuda", 80, 32)

for count, shape in ((1, (768, 3072)), (3, (64, 3, 3, 3)), (12, (768,))):
    values = dict(zip(SIZES, (*_triton._geometry(count, shape), True), strict=True))
    for kernel in (_triton_passes.observe, _triton_passes.normalise, _triton_passes.step):
        if kernel is _triton_passes.normalise and not values["FACTORED"]:
            continue
        # As Triton itself does it: numbers that are 1, and those in capitals, are compiled in.
        fixed = {name: x for name, x in values.items() if name[0].isupper() or x == 1}
        types = {
            name: "i32" if name in values else "*i64" if name == "places" else "*fp32"
            for name in kernel.arg_names
        }
        types |= dict.fromkeys(fixed, "constexpr")
        options = {"num_warps": _triton._WARPS}
        compiled = triton.compile(ASTSource(kernel, types, fixed), target=TARGET, options=options)
        assert f".entry {kernel.__name__}" in compiled.asm["ptx"]
        print(kernel.__name__)
