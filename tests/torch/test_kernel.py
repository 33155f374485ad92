"""Which kernel computes where, and what is said where one cannot be had."""

import importlib.util

import pytest
import torch

import celo.torch
from celo import _compile
from celo._errors import CeloError
from celo.torch import _kernel, _native

CPU, GPU, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))


@pytest.fixture
def nothing_cached():
    cached = (_native.library, _native.available, _kernel._triton_works)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def test_a_name_is_taken_at_its_word():
    assert _kernel.chosen("eager", CPU) == _kernel.chosen("eager", GPU) == "eager"
    assert _kernel.chosen("native", CPU) == "native"
    with pytest.raises(CeloError, match="unknown kernel 'fused'"):
        celo.torch.CeloRule([torch.nn.Parameter(torch.ones(3))], kernel="fused")
    with pytest.raises(CeloError, match="the native kernel runs on CPUs, and parameters are on meta"):
        _kernel.chosen("native", META)
    assert _kernel.chosen("auto", META) == "eager"


def test_without_a_compiler_auto_is_eager_and_native_says_what_to_do(monkeypatch, nothing_cached):
    monkeypatch.setattr(_compile, "find_compiler", lambda: None)
    assert _kernel.chosen("auto", CPU) == "eager"
    with pytest.raises(CeloError, match="use kernel='eager'"):
        celo.torch.CeloRule([torch.nn.Parameter(torch.ones(3))], kernel="native")


def test_without_its_package_triton_is_refused_by_name_and_left_out_by_auto(monkeypatch, nothing_cached):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"kernel='triton' needs the package triton.*use kernel='auto'"):
        celo.torch.CeloRule([torch.nn.Parameter(torch.ones(3))], kernel="triton")
    assert _kernel.chosen("auto", GPU) == "eager"


@pytest.mark.parametrize(
    ("capability", "compiler", "kernel"),
    [((9, 0), "/usr/bin/c++", "triton"), ((7, 5), "/usr/bin/c++", "eager"), ((9, 0), None, "eager")],
)
def test_auto_is_triton_on_a_gpu_that_it_supports(monkeypatch, nothing_cached, capability, compiler, kernel):
    monkeypatch.setattr(_kernel, "_has_triton", lambda: True)
    monkeypatch.setattr(_compile, "find_compiler", lambda: compiler)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _kernel.chosen("auto", GPU) == kernel
