"""The C++ under AddressSanitizer and UBSan, and its calls with wrong buffers; all slow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celo import _compile
from celo._kernels import native

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_compile.find_compiler() is None, reason="there is no C++ compiler here"),
]

HERE = Path(__file__).parent
WEIGHTS = 155  # of the rule, and the least size of a tensor
FLAGS = [
    *("-std=c++17", "-O1", "-g", "-march=native", "-pthread"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
]


def test_no_call_reads_or_writes_past_an_end(tmp_path):
    compiler, program = _compile.find_compiler(), tmp_path / "sanitized"
    sources = [source for source in native.SOURCES if source.stem != "xla_calls"]
    sources += [native.SOURCES[0].with_name("plain_calls.cc"), HERE / "sanitized.cc"]
    compiled = subprocess.run(
        [compiler, *FLAGS, *map(str, sources), "-o", str(program)], capture_output=True, text=True
    )
    if "cannot find" in compiled.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert compiled.returncode == 0, compiled.stderr
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    ran = subprocess.run([program, str(WEIGHTS), "150"], env=environment, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("150 rounds\n", 0), ran.stderr


def test_wrong_buffers_are_refused_whatever_they_are():
    ran = subprocess.run([sys.executable, HERE / "fuzz_calls.py", "300"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    succeeded, rounds = map(int, re.findall(r"\d+", ran.stdout))
    assert 0 < succeeded < rounds
