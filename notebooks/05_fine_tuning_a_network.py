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
# matrix of low rank, its field is minus the gradient, and the learning rate is the step size. The network here is a
# small one that we first train ourselves, on the handwritten digits of scikit-learn, so that everything runs in
# seconds without a download; the same four lines serve a pretrained transformer.

# %%
import copy
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from dlrt import LowRankOptimizer, adapt, load_low_rank, merge, parameter_report, plots, ranks, save_low_rank
from integrators import Adam, AugmentedBUG, GeoLoRA, LoRA, Tolerance

QUICK = "DLRT_QUICK" in os.environ  # the tests make fewer steps
STEPS = 150 if QUICK else 400
torch.set_num_threads(1)
plt.rcParams.update(
    plots.STYLE | {"figure.dpi": 150, "figure.figsize": (3.3, 2.2), "figure.constrained_layout.use": True}
)

images, labels = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 8, 8)
labels = torch.tensor(labels)
order = torch.tensor(np.random.default_rng(0).permutation(len(labels)))
training, test = order[:1297], order[1297:]


def accuracy(model, images):
    """Share of the test images that are classified correctly."""
    with torch.no_grad():
        return float((model(images[test]).argmax(1) == labels[test]).float().mean())


def train(model, optimizer, images, steps, note=None):
    """Steps on random batches of 64; the losses. Any torch loop is like this one."""
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        batch = training[torch.randint(len(training), (64,), generator=generator)]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if note is not None:
            note(model)
    return losses


# %% [markdown]
# ## 1. A pretrained network and a new task
#
# The network learns upright digits. The new task are the same digits transposed (rows for columns): most answers of the
# pretrained network are wrong there.

# %%
torch.manual_seed(0)
pretrained = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
)
train(pretrained, torch.optim.AdamW(pretrained.parameters(), lr=2e-3), images, 400)
new_images = images.transpose(1, 2)

before = accuracy(pretrained, images), accuracy(pretrained, new_images)
print(f"accuracy on upright digits {before[0]:.3f}, on transposed digits {before[1]:.3f}")
assert before[0] > 0.93 and before[1] < 0.5

fig, panels = plt.subplots(2, 6, figsize=(3.3, 1.4))
for i in range(6):
    for row, shown in enumerate((images, new_images)):
        panels[row, i].imshow(shown[test[i]], cmap="Greys")
        panels[row, i].set(xticks=[], yticks=[])
panels[0, 0].set_ylabel("old task")
panels[1, 0].set_ylabel("new task")
plt.show()

# %% [markdown]
# ## 2. Adapters, trained by GeoLoRA
#
# `adapt` adds to each linear layer a matrix $U S V^T$ with $S = 0$: the function of the network is not changed, and
# all that it had is frozen. `LowRankOptimizer` takes an integrator. GeoLoRA needs *one* gradient per step, so the
# training loop is the usual one. The backward pass computes $G V$, $G^T U$ and $U^T G V$ directly; nothing is divided
# by $S$, which is zero at the start.

# %%
model = copy.deepcopy(pretrained)
adapt(model, nn.Linear, rank=2, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    assert torch.allclose(model(images), pretrained(images), atol=1e-5)

optimizer = LowRankOptimizer(model, GeoLoRA(truncation=Tolerance(relative=0.15, spare=1)), lr=0.1)
history = []
losses = train(model, optimizer, new_images, STEPS, note=lambda model: history.append(list(ranks(model).values())))

print(parameter_report(model))
print(f"accuracy on transposed digits {accuracy(model, new_images):.3f}")
assert accuracy(model, new_images) > (0.8 if QUICK else 0.93)
assert parameter_report(model).trained < 0.3 * sum(p.numel() for p in pretrained.parameters())

fig, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(3.3, 3.0))
top.semilogy(np.arange(1, STEPS + 1), losses, color=plots.COLOURS[4], linewidth=0.8)
top.set(ylabel="loss of the batch")
for i, (name, values) in zip([4, 5, 3], zip(ranks(model), np.array(history).T)):
    bottom.plot(
        np.arange(1, STEPS + 1), values, label=f"layer {name}", **plots.LineStyle(i).keywords() | {"marker": ""}
    )
bottom.set(xlabel="step", ylabel="rank (with the spare one)", ylim=(0, None))
bottom.legend(frameon=False, ncols=3, loc="lower right", columnspacing=1.0)
plt.show()

# %% [markdown]
# ## 3. Other methods, by one word
#
# Every integrator can be put in the place of GeoLoRA. LoRA has a fixed rank, chosen here to give about as many
# trained parameters. Each method takes the best of three learning rates by the loss over the last 50 steps; one seed
# and a toy task, so a difference of a percent means nothing (the test set has 500 images: one standard deviation is
# about 0.01).


# %%
def fine_tuned(method, rates, rank):
    """The best of several rates: rate and model."""
    tried = []
    for rate in rates:
        model = copy.deepcopy(pretrained)
        if method is None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        else:
            adapt(model, nn.Linear, rank=rank, generator=torch.Generator().manual_seed(0))
            optimizer = LowRankOptimizer(model, method, lr=rate)
        try:
            tried.append((np.mean(train(model, optimizer, new_images, STEPS)[-50:]), rate, model))
        except FloatingPointError:  # diverged
            continue
    return min(tried, key=lambda entry: entry[0])[1:]


geolora = GeoLoRA(truncation=Tolerance(relative=0.15, spare=1))
found = {
    "all parameters, AdamW": fine_tuned(None, [5e-4, 2e-3, 8e-3][: 1 if QUICK else 3], 0),
    "GeoLoRA": fine_tuned(geolora, [0.1, 0.03, 0.3][: 1 if QUICK else 3], 2),
    "LoRA, plain descent": fine_tuned(LoRA(), [0.1, 0.03, 0.2][: 1 if QUICK else 3], 6),
    "LoRA, Adam": fine_tuned(LoRA(optimizer=Adam()), [1e-2, 3e-3, 3e-2][: 1 if QUICK else 3], 6),
}
print(f"{'method':<22} {'rate':>6} {'parameters':>11} {'accuracy':>9}")
for name, (rate, tuned) in found.items():
    trained = parameter_report(tuned).trained
    print(f"{name:<22} {rate:>6} {trained:>11,} {accuracy(tuned, new_images):>9.3f}")
    assert accuracy(tuned, new_images) > (0.7 if QUICK else 0.93)

# %% [markdown]
# ## 4. Methods that need more than one gradient
#
# The augmented BUG integrator evaluates the field twice in a step. It cannot do with one `backward`, so `step` is
# given a *closure* that computes the loss and its gradients again, for all layers at once: two backward passes for
# the whole network, not two for each layer.

# %%
model = copy.deepcopy(pretrained)
adapt(model, nn.Linear, rank=4, generator=torch.Generator().manual_seed(0))
method = AugmentedBUG(truncation=Tolerance(relative=0.15, spare=1))
optimizer = LowRankOptimizer(model, method, lr=0.1)
passes = 0


def closure():
    """The loss on one batch and its gradients."""
    global passes
    passes += 1
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(new_images[training[:64]]), labels[training[:64]])
    loss.backward()
    return loss


first = optimizer.step(closure).item()
assert passes == method.evaluations == 2
for _ in range(9):
    last = optimizer.step(closure).item()
print(f"backward passes per step: {passes / 10:g}; loss of the batch from {first:.2f} to {last:.2f}")
assert last < first

# %% [markdown]
# ## 5. Save, load, merge
#
# Adapters are saved on their own, at the rank they ended with. Merged into the weights they cost nothing at inference.

# %%
tuned = found["GeoLoRA"][1]
with tempfile.TemporaryDirectory() as folder:
    save_low_rank(tuned, f"{folder}/adapters.safetensors")
    size = os.path.getsize(f"{folder}/adapters.safetensors")
    other = copy.deepcopy(pretrained)
    adapt(other, nn.Linear, rank=1)
    load_low_rank(other, f"{folder}/adapters.safetensors")

merged = merge(copy.deepcopy(tuned))
with torch.no_grad():
    answers = [m(new_images[test]) for m in (tuned, other, merged)]
assert torch.equal(answers[0], answers[1]) and ranks(tuned) == ranks(other)
assert torch.allclose(answers[0], answers[2], atol=1e-4)
assert [type(layer) for layer in merged] == [type(layer) for layer in pretrained]
print(f"{size / 1000:.0f} kB of adapters; ranks {list(ranks(other).values())}")

# %% [markdown]
# For a pretrained transformer the lines are the same: `adapt(model, ["query", "key", "value"], rank=8)` picks the
# layers by the ends of their names, and `trainable="classifier"` opens a new head, which AdamW trains beside the
# adapters.
#
# Reference: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch (2025),
# [arXiv:2410.18720](https://arxiv.org/abs/2410.18720).
