"""Methods of fine-tuning: parameters counted by hand, budgets kept, the same start for all."""

import torch

from dlrt.finetune.data import load
from dlrt.finetune.loop import fine_tune
from dlrt.finetune.methods import METHODS, Method, Plan, prepare
from dlrt.nn import low_rank_layers
from integrators import INTEGRATORS, FixedRank

BLOCKS, WIDTH = 2, 16  # of the network of `setting`
MATRICES = BLOCKS * (4 * [(WIDTH, WIDTH)] + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)])
HEAD = 2 * WIDTH * 2 + 2  # class token and mean patch, two classes


def test_integrator_of_a_plan():
    plan = Plan(rank=4, tau=0.1, budget=18, layers=3, steps=40)
    method = Method("x", INTEGRATORS["geolora"], lambda p: FixedRank(p.total), lambda p: p.start)
    assert method.planned(plan).truncation == FixedRank(18) and method.rank(plan) == 9
    assert Method("x", INTEGRATORS["lora"]).planned(plan) == INTEGRATORS["lora"]


def test_parameters_of_a_budget():
    """Of U and V: those of LoRA with as many columns, less 3 r^2 for S, and one direction of each layer at least."""
    plan = {"tau": 0.1, "steps": 40, "layers": 3, "direction": 3 * 40}
    assert Plan(rank=4, budget=None, **plan).parameters == Plan(rank=9, budget=12, **plan).parameters == 3 * (160 - 48)
    assert Plan(rank=4, budget=3, **plan).parameters == 120


def test_parameters_are_those_counted_by_hand(setting):
    def count(method):
        found = fine_tune(setting=setting.json(), method=method, lr=1e-3, seed=0, rank=4)
        return found["parameters"], found["head"], found["ranks"]

    lora = 4 * sum(m + n for m, n in MATRICES)
    assert count("lora")[:2] == count("peft-lora")[:2] == (lora + HEAD, HEAD)
    for method in ("lora-plus", "lora-factor-muon", "lora-muon", "riemannian-lora", "stiefel-adamw"):
        assert count(method)[:2] == (lora + HEAD, HEAD)
    assert count("svd-lora")[0] == count("stella")[0] == lora + len(MATRICES) * 16 + HEAD
    parameters, _, ranks = count("peft-dora")
    assert parameters == lora + sum(m for m, _ in MATRICES) + HEAD  # a length for each output
    assert set(ranks.values()) == {4}
    assert count("probe")[:2] == (HEAD, HEAD)
    for method, extra in (("geolora", 2), ("geolora-budget", 2), ("adalora", 1), ("peft-adalora", 1)):
        parameters, _, ranks = count(method)
        by_hand = sum(r * (m + n) + r**extra for r, (m, n) in zip(ranks.values(), MATRICES, strict=True))
        assert parameters == by_hand + HEAD
        if method in ("geolora-budget", "adalora"):
            assert sum(ranks.values()) == 4 * len(MATRICES)  # the budget, spare columns included


def test_a_layer_without_triplets_has_none(setting):
    """A budget of 6 for 12 layers: AdaLoRA masks some of them as a whole."""
    found = fine_tune(setting=setting.json(), method="adalora", lr=1e-3, seed=0, budget=6)
    assert sum(found["ranks"].values()) == 6 and 0 in found["ranks"].values()


def test_all_start_from_the_network_with_the_same_head(setting):
    task = load(setting)
    inputs = task.batch(task.splits["test"][0], torch.arange(20))
    outputs = {}
    for method in METHODS:
        torch.manual_seed(3)
        model = prepare(task.build(), method, 1e-3, rank=4, tau=0.3, budget=None, steps=12, seed=3).model.eval()
        with torch.no_grad():
            outputs[method] = model(**inputs).logits
    for method, found in outputs.items():
        torch.testing.assert_close(found, outputs["full"], msg=method)


def test_stella_starts_from_the_identity(setting):
    """S = I, and U V^T out of the frozen weights: the network is what it was, and U and V move in the first step."""
    task = load(setting)
    untouched = dict(task.build().named_modules())
    prepared = prepare(task.build(), "stella", 0.1, rank=4, tau=0.3, budget=None, steps=12, seed=3)
    layers = low_rank_layers(prepared.model)
    for name, layer in layers.items():
        assert torch.equal(layer.S, torch.eye(4)) and not layer.merged
        weight = layer.base.weight + layer.U @ layer.V.mT
        torch.testing.assert_close(weight, untouched[name].weight)
    layer = next(iter(layers.values()))
    before = layer.U.detach().clone()
    inputs, labels = task.batch(task.splits["train"][0], torch.arange(8)), task.splits["train"][1][:8]
    torch.nn.functional.cross_entropy(prepared.model(**inputs).logits, labels).backward()
    prepared.optimizer.step()
    assert (layer.U - before).norm() > 0.01
