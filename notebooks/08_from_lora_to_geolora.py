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
# # From LoRA to GeoLoRA
#
# You fine-tune with PEFT's LoRA, and ask what GeoLoRA would cost and give: time, memory, parameters, accuracy. Here
# both, and AdaLoRA, train the sentence encoder MiniLM to tell good from bad reviews of movies, by the same loop. One
# run of each is no comparison, so the last part shows what `dlrt table 2` measured: all methods tuned alike, five
# seeds.
#
# The notebook needs the extra `finetuning` (`pip install -c constraints.txt ".[finetuning]"`) and takes about four
# minutes.

# %%
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import paper_figures
from dlrt import plots
from dlrt.finetune.assets import minilm, movie_reviews
from dlrt.finetune.peft import GeoloraConfig, make_optimizer, save_lora
from dlrt.nn import ranks
from paper_figures.adapters.accuracy_table import draw, tables

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
QUICK = "DLRT_QUICK" in os.environ  # the tests make fewer steps
STEPS = 12 if QUICK else 100
torch.set_num_threads(1)
plt.rcParams.update(plots.STYLE | {"figure.dpi": 150})
REFERENCE = json.loads((Path(paper_figures.__file__).parent / "reference" / "table2.json").read_text())

# %% [markdown]
# ## 1. The network, the data, one loop for all
#
# The rates are those that `dlrt table 2` found for each method on validation data.

# %%
reviews, positive = movie_reviews()
order = np.random.default_rng(0).permutation(len(reviews))
training, test = order[:4000], order[4000 : 4200 if QUICK else 5500]
tokenizer = AutoTokenizer.from_pretrained(minilm())
RATES = {row["method"]: row["lr"] for row in REFERENCE["tuned"] if row["size"] == "equal"}


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


def train(model, optimizer, after=lambda step: None):
    """Losses of steps on random batches of 16, and the seconds of one step."""
    rng, losses, seconds = np.random.default_rng(0), [], []
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], STEPS, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for step in range(1, STEPS + 1):
        inputs = batch(rng.choice(training, 16, replace=False))
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        after(step)
        seconds.append(time.perf_counter() - began)
        schedule.step()
        losses.append(loss.item())
    return losses, float(np.median(seconds))


# %% [markdown]
# ## 2. What changes: the configuration and the optimiser
#
# Adapters are on all linear layers of the six blocks. `r=8` says for LoRA which rank each of the 36 layers has; for
# GeoLoRA how many parameters there may be in all of them together, which it moves to the layers where they are worth
# most. The pooler and the classifier are trained by AdamW in all three.

# %%
LAYERS = r"bert\.encoder\.layer\..*\.(query|key|value|dense)"
SHARED = {"target_modules": LAYERS, "modules_to_save": ["pooler", "classifier"]}


def adamw(model, lr):
    """AdamW, with a rate of its own for what is trained beside the adapters."""
    parts = {"adapters": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts["adapters" if "lora_" in name else "rest"].append(parameter)
    return torch.optim.AdamW(
        [{"params": parts["adapters"], "lr": lr}, {"params": parts["rest"], "lr": 1e-3}], weight_decay=0.0
    )


def lora():
    """LoRA of PEFT."""
    model = get_peft_model(pretrained(), LoraConfig(r=8, lora_alpha=8, **SHARED))
    return model, adamw(model, RATES["peft-lora"]), lambda step: None


def adalora():
    """AdaLoRA of PEFT: from 12 triplets in each layer to 8 on average."""
    schedule = {"tinit": STEPS // 10, "tfinal": STEPS // 3, "deltaT": max(1, STEPS // 40), "total_step": STEPS}
    model = get_peft_model(pretrained(), AdaLoraConfig(init_r=12, target_r=8, lora_alpha=12, **schedule, **SHARED))
    return model, adamw(model, RATES["peft-adalora"]), model.base_model.update_and_allocate


def geolora():
    """GeoLoRA: spectral steps and a budget of parameters."""
    model = get_peft_model(pretrained(), GeoloraConfig(r=8, lora_alpha=8, **SHARED))
    rest = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)  # noqa: E731
    return model, make_optimizer(model, RATES["geolora-spectral-budget"], rest=rest), lambda step: None


def adapter_parameters(model):
    """Of the adapters alone; of AdaLoRA's triplets those that are not masked."""
    triplets = [layer for layer in model.modules() if hasattr(layer, "lora_E")]
    if triplets:
        kept = [int(layer.lora_E["default"].count_nonzero()) for layer in triplets]
        return sum(k * (x.in_features + x.out_features + 1) for k, x in zip(kept, triplets, strict=True))
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)


found, models = {}, {}
for make in (lora, adalora, geolora):
    model, optimizer, after = make()
    losses, seconds = train(model, optimizer, after)
    models[make.__name__] = model
    found[make.__name__] = losses, adapter_parameters(model), seconds, accuracy(model)
print(f"{'method':<8} {'adapter parameters':>19} {'ms per step':>12} {'accuracy':>9}")
for name, (_, parameters, seconds, share) in found.items():
    print(f"{name:<8} {parameters:>19,} {1000 * seconds:>12.0f} {share:>9.3f}")
assert found["geolora"][1] <= found["lora"][1]
assert QUICK or min(share for *_, share in found.values()) > 0.7

# %% [markdown]
# Where the ranks went: LoRA has 8 everywhere.

# %%
kinds = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attention out": "attention.output.dense", "MLP in": "intermediate.dense", "MLP out": "output.dense",
}  # fmt: skip
reached = ranks(models["geolora"])
table = np.array([[reached[f"bert.encoder.layer.{block}.{kind}"] for block in range(6)] for kind in kinds.values()])

fig, axes = plt.subplots(figsize=(3.3, 2.3), layout="constrained")
axes.imshow(table, cmap="cividis", aspect="auto")
for (i, j), value in np.ndenumerate(table):
    dark = value < (table.min() + table.max()) / 2
    axes.text(j, i, value, ha="center", va="center", fontsize=7, color="white" if dark else "black")
axes.set(xticks=range(6), xticklabels=range(1, 7), xlabel="block", yticks=range(6), yticklabels=list(kinds))
axes.grid(False)
axes.set_title("rank after training")
plt.show()
# Picture: Rank by layer and block: 1 in the three lower blocks, and in query, key and output of the attention of all;
# between 5 and 43 in the values and the MLPs of the three upper blocks.

# %% [markdown]
# ## 3. Back to LoRA
#
# `save_lora` writes the adapter as LoRA, which PEFT loads without this project.

# %%
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    save_lora(models["geolora"], folder)
    plain, sample = PeftModel.from_pretrained(pretrained(), folder).eval(), batch(test[:50])
    difference = (plain(**sample).logits - models["geolora"].eval()(**sample).logits).abs().max()
print(f"largest difference of the scores: {difference:.0e}")
assert difference < 1e-4

# %% [markdown]
# ## 4. What the comparison says
#
# `dlrt table 2` in full: rates (half decades) and weight decays of each method chosen by the loss on validation data,
# five seeds, differences in pairs with their standard errors over the seeds and over the examples. *MB in a step*
# counts all that torch has alive in a training step, the network of 91 MB among it; most of it are activations, which
# all adapters need alike.

# %%
shown = ("method", "parameters", "as stored", "test accuracy", "− LoRA", "time / LoRA (PEFT)", "MB in a step")
lines = [" | ".join(row[key] for key in shown) for row in tables(REFERENCE)["rows"]]
display(Markdown("\n".join([" | ".join(shown), "|".join(["---"] * len(shown)), *lines])))
display(draw(REFERENCE)["-time"])
# Picture: Test accuracy against seconds of training. LoRA, SVD-LoRA and LoRA-Muon take 38 to 39 s, GeoLoRA and AdaLoRA
# 40 to 44 s, full fine-tuning 57 s; LoRA, LoRA-Muon and GeoLoRA with spectral steps have 0.81 to 0.815, full
# fine-tuning 0.818, GeoLoRA with Adam 0.80 to 0.805, SVD-LoRA and AdaLoRA 0.78 to 0.79.

# %% [markdown]
# What to make of it is on the page "Which optimiser" of the documentation (`docs/choose/optimiser.md`); what does not
# hold, on a page of its own (`docs/limits.md`).
