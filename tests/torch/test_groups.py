"""What goes to AdamW, and the plan that says so."""

import pytest
import torch
from torch import nn

import celo.torch
from celo._errors import CeloError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.pos_embed = nn.Parameter(torch.randn(5, 8))
        self.block = nn.Linear(8, 8)
        self.kernel = nn.Conv1d(8, 8, 3)
        self.norm = nn.LayerNorm((2, 8))  # two axes, and a norm still
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.lm_head = nn.Linear(8, 20)


def labels(groups):
    return {name: group["label"] for group in groups for name, _ in group["params"]}


def test_each_parameter_is_in_the_group_of_its_kind():
    assert labels(celo.torch.param_groups(Model())) == {
        "tokens.weight": "embedding",
        "pos_embed": "embedding",
        "block.weight": "matrix",
        "block.bias": "vector",
        "kernel.weight": "matrix",
        "kernel.bias": "vector",
        "norm.weight": "vector",
        "norm.bias": "vector",
        "lm_head.weight": "head",
        "lm_head.bias": "vector",
    }


@pytest.mark.parametrize(
    "name", ["lm_head", "head", "heads.head", "fc", "classifier.dense", "score", "pre_classifier"]
)
def test_heads_go_by_their_name(name):
    model = nn.Module()
    for part in name.split(".")[:-1]:
        model.add_module(part, nn.Module())
    model.get_submodule(name.rpartition(".")[0]).add_module(name.rpartition(".")[2], nn.Linear(4, 4))
    assert labels(celo.torch.param_groups(model))[f"{name}.weight"] == "head"


@pytest.mark.parametrize("name", ["header", "attention_fc", "headroom"])
def test_a_name_that_only_begins_so_is_no_head(name):
    model = nn.ModuleDict({name: nn.Linear(4, 4)})
    assert labels(celo.torch.param_groups(model))[f"{name}.weight"] == "matrix"


def test_tied_parameters_are_there_once():
    model = Model()
    model.lm_head.weight = model.tokens.weight
    assert labels(celo.torch.param_groups(model))["tokens.weight"] == "embedding"
    assert "lm_head.weight" not in labels(celo.torch.param_groups(model))


def test_expressions_are_the_users():
    groups = celo.torch.param_groups(Model(), head="block", embedding="kernel")
    assert labels(groups)["block.weight"] == "head"
    assert labels(groups)["kernel.weight"] == "embedding"
    with pytest.raises(CeloError, match=r"head='\(' is no regular expression"):
        celo.torch.param_groups(Model(), head="(")


def test_vectors_do_not_decay():
    groups = {group["label"]: group for group in celo.torch.param_groups(Model(), weight_decay=0.1)}
    assert "weight_decay" not in groups["matrix"]
    assert groups["vector"]["weight_decay"] == 0
    assert groups["embedding"]["weight_decay"] == groups["head"]["weight_decay"] == 0.1


def test_celo2_takes_vectors_and_embeddings_by_its_adam():
    groups = celo.torch.celo2_param_groups(Model())
    assert labels(groups) == labels(celo.torch.param_groups(Model()))
    assert {group["label"]: group["adam"] for group in groups} == {
        "matrix": False,
        "embedding": True,
        "head": False,
        "vector": True,
    }
    assert "embedding, adam: 2 tensors, 200 parameters" in celo.torch.plan(groups)


def test_the_plan_of_an_optimizer_is_that_of_its_groups():
    model = Model()
    before = celo.torch.plan(celo.torch.param_groups(model, lr=3e-4))
    assert (
        "embedding, adamw lr=0.0003 weight_decay=0.01: 2 tensors, 200 parameters\n  pos_embed [5, 8]"
        in before
    )
    optimizer = celo.torch.Celo(celo.torch.param_groups(model, lr=3e-4), num_steps=50)
    assert celo.torch.plan(optimizer.param_groups) == before


def test_groups_without_names_are_numbered():
    optimizer = celo.torch.Celo(nn.Linear(3, 2).parameters(), num_steps=50)
    assert celo.torch.plan(optimizer.param_groups).splitlines() == [
        "group 0, learned: 2 tensors, 8 parameters",
        "  tensor 0 [2, 3]",
        "  tensor 1 [2]",
    ]
