"""Groups of parameters by module, name and shape, to send some of them to AdamW."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from celo._errors import CeloError
from celo.torch._adam import ADAMW

EMBEDDING = r"embed|wte|wpe|pos_emb"
HEAD = r"(^|\.)((lm_)?heads?|score|logits|unembed\w*|\w*classifier)(\.|$)|^fc(\.|$)"

LABELS = ("matrix", "embedding", "head", "vector")  # in the order of the groups


def param_groups(
    model: nn.Module,
    *,
    lr: float = ADAMW["lr"],
    betas: tuple[float, float] = ADAMW["betas"],
    eps: float = ADAMW["eps"],
    weight_decay: float = ADAMW["weight_decay"],
    embedding: str = EMBEDDING,
    head: str = HEAD,
) -> list[dict[str, Any]]:
    """A model's parameters for `Celo` or `CeloRule`: matrices by the learned rule, all others by AdamW.

    Others are embeddings, heads, and vectors (norms, biases, and whatever has fewer than two axes).

    >>> import celo.torch, torch
    >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8))
    >>> groups = celo.torch.param_groups(model, lr=3e-4)
    >>> print(celo.torch.plan(groups))
    matrix, learned: 1 tensors, 64 parameters
      1.weight [8, 8]
    embedding, adamw lr=0.0003 weight_decay=0.01: 1 tensors, 400 parameters
      0.weight [50, 8]
    vector, adamw lr=0.0003 weight_decay=0.0: 1 tensors, 8 parameters
      1.bias [8]
    >>> optimizer = celo.torch.Celo(groups, num_steps=100)

    Args:
      model: its parameters that need no gradient are left out; tied ones go by their first name.
      lr: AdamW's. The learned schedule does not multiply it; a scheduler of `torch.optim.lr_scheduler` does.
      betas: AdamW's.
      eps: AdamW's.
      weight_decay: AdamW's, of embeddings and heads; vectors have none.
      embedding: regular expression, looked for in the lower-cased name ("decoder.embed.weight");
        `nn.Embedding` is one whatever its name.
      head: likewise.

    Returns:
      Groups of (name, parameter); options may be changed before an optimizer takes them, `label` says which
      group is which.

    Raises:
      CeloError: if an expression cannot be read.
    """
    adamw = {"rule": "adamw", "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    options = {"matrix": {}, "embedding": adamw, "head": adamw, "vector": adamw | {"weight_decay": 0.0}}
    return _with_options(_labelled(model, embedding, head), options)


def celo2_param_groups(
    model: nn.Module, *, embedding: str = EMBEDDING, head: str = HEAD
) -> list[dict[str, Any]]:
    """A model's parameters for `Celo2`: embeddings and vectors by its Adam, matrices and heads by its rule.

    Left to itself `Celo2` goes by the number of axes, and takes an embedding for a matrix.

    >>> import celo.torch, torch
    >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8))
    >>> print(celo.torch.plan(celo.torch.celo2_param_groups(model)))
    matrix, learned: 1 tensors, 64 parameters
      1.weight [8, 8]
    embedding, adam: 1 tensors, 400 parameters
      0.weight [50, 8]
    vector, adam: 1 tensors, 8 parameters
      1.bias [8]

    Args:
      model: as in `param_groups`; so are the others.
      embedding: what is an embedding.
      head: what is a head.

    Returns:
      Groups, as `param_groups`.

    Raises:
      CeloError: if an expression cannot be read.
    """
    options = {label: {"adam": label in ("embedding", "vector")} for label in LABELS}
    return _with_options(_labelled(model, embedding, head), options)


def _with_options(
    found: Mapping[str, list[tuple[str, nn.Parameter]]], options: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {"params": members, "label": label, **options[label]} for label, members in found.items() if members
    ]


def _labelled(model: nn.Module, embedding: str, head: str) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """(name, parameter) of those that need a gradient, by label."""
    is_embedding, is_head = _expression("embedding", embedding), _expression("head", head)
    found: dict[str, list[tuple[str, nn.Parameter]]] = {label: [] for label in LABELS}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        if parameter.dim() < 2 or "Norm" in type(owner).__name__:
            label = "vector"
        elif is_head.search(name.lower()):
            label = "head"
        elif isinstance(owner, nn.Embedding | nn.EmbeddingBag) or is_embedding.search(name.lower()):
            label = "embedding"
        else:
            label = "matrix"
        found[label].append((name, parameter))
    return found


def plan(groups: Iterable[Mapping[str, Any]]) -> str:
    """What is sent where, a line a tensor and a line a group: for reading before a long run.

    Args:
      groups: of `param_groups` or `celo2_param_groups`, or an optimizer's `param_groups`.
    """
    lines = []
    for number, group in enumerate(groups):
        members = _named(group)
        count = sum(math.prod(tensor.shape) for _, tensor in members)
        rule = "adam" if group.get("adam") else group.get("rule", "learned")
        if rule == "adamw":
            rule += f" lr={group['lr']} weight_decay={group['weight_decay']}"
        lines.append(
            f"{group.get('label', f'group {number}')}, {rule}: {len(members)} tensors, {count:,} parameters"
        )
        lines += [f"  {name} {list(tensor.shape)}" for name, tensor in members]
    return "\n".join(lines)


def _named(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    members = list(group["params"])
    if all(isinstance(member, tuple) for member in members):
        return members
    names = group.get("param_names", [f"tensor {i}" for i in range(len(members))])
    return list(zip(names, members, strict=True))


def _expression(option: str, source: str) -> re.Pattern[str]:
    try:
        return re.compile(source)
    except re.error as error:
        raise CeloError(f"{option}={source!r} is no regular expression: {error}") from error
