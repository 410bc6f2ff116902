"""Embeddings of some pairs, gradients of functions of them, and how far two lists of tensors are apart."""

import importlib
from dataclasses import fields, replace
from functools import cache

import torch
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.config.components import component_names
from vlp.losses import Objective

SMALL = {"BarLIP": {"dims": 5}, "Classes": {"classes": 7}}


@cache
def components() -> list[type[Objective]]:
    """Each objective that is defined in a file of vlp/losses."""
    modules = [importlib.import_module(f"vlp.losses.{name}") for name in component_names(Objective)]
    return [
        c
        for module in modules
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Objective) and c.__module__ == module.__name__
    ]


def made(component, **options) -> Objective:
    """The objective, with few weights of its own."""
    return component(**{**SMALL.get(component.__name__, {}), **options})


@cache
def first_values(width):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: value for component in components() for name, value in made(component).learnt(width).items()}


def learnt(width, dtype):
    """The weights of all objectives: each finds its own."""
    return {name: value.to(dtype).clone().requires_grad_() for name, value in first_values(width).items()}


def embeddings(b, d=8, *, k=0, dtype=torch.float64, scale=20.0, weights=True, seed=0, m=None, bank=0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return (
            normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype).requires_grad_()
        )

    number = torch.float32 if dtype == torch.bfloat16 else dtype
    e = Embeddings(
        unit(b, d),
        unit(b, d),
        torch.tensor(scale, dtype=number, requires_grad=True),
        torch.tensor(-3.0, dtype=number, requires_grad=True),
        ids=torch.randint(0, max(1, b // 2), (b,), generator=generator),
        weights=torch.rand(b, generator=generator) + 0.1 if weights else None,
        negatives=unit(b, k, d) if k else None,
        negatives_keep=torch.rand(b, k, generator=generator) > 0.3 if k else None,
        learnt=learnt(d, number),
    )
    beside = {"guide_image": unit(b, d), "guide_text": unit(b, d), "marks": unit(b, 2)}
    if bank:
        beside |= {f"bank_{name}": unit(bank, d) for name in ("image", "text", "guide_image", "guide_text")}
    return replace(e, **{name: tensor.detach() for name, tensor in beside.items()})


def leaves(e: Embeddings):
    return [t for t in (e.image, e.text, e.scale, e.bias, e.negatives, *e.learnt.values()) if t is not None]


def gradients(function, e):
    value = function(e)
    return [value.detach(), *torch.autograd.grad(value, leaves(e), allow_unused=True, materialize_grads=True)]


def in_double(e: Embeddings) -> Embeddings:
    """The same numbers, as the float64 oracle sees them."""
    cast = lambda t: None if t is None else t.detach().double().requires_grad_()  # noqa: E731
    names = [field.name for field in fields(e) if isinstance(getattr(e, field.name), torch.Tensor)]
    names = [name for name in names if getattr(e, name).is_floating_point() and name != "weights"]
    own = {name: cast(weight) for name, weight in e.learnt.items()}
    return replace(e, **{name: cast(getattr(e, name)) for name in names}, learnt=own)


def errors(actual, oracle):
    """Relative error of each tensor, in the norm."""
    return [float((a.double() - b).norm() / b.norm().clamp_min(1e-9)) for a, b in zip(actual, oracle, strict=True)]
