"""The same update by plain PyTorch, to compare an engine's with: `python plain_grpo.py FOLDER`.

Runs in the train environment and shares nothing with the engine but the folder's form: one row at
a time, without packing, through the model as Hugging Face loads it, the loss written out below.
FOLDER is a finished job's. Prints one JSON object: what was computed here, and how far from it the
engine's loss, gradients, log-probabilities and new weights are.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

__all__ = ["main"]

Model = Any  #: of transformers or PEFT, which have no types

_BETA_1 = 0.9
_CLEAR = 1e-3


def _log_probs(model: Model, row: dict[str, Any]) -> torch.Tensor:
    """Return the answer's log-probabilities, (answer tokens,)."""
    ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row["prompt_ids"]) - 1 : -1]
    answer = torch.tensor(row["token_ids"])
    return torch.log_softmax(logits, -1).gather(1, answer[:, None])[:, 0]


def _tokens_loss(
    new: torch.Tensor, old: torch.Tensor, row: dict[str, Any], hyper: dict[str, Any]
) -> torch.Tensor:
    """Return GRPO's loss of each token: the clipped ratio of PPO (arXiv 1707.06347) with the dual
    clip of arXiv 1912.09729, weighed by the truncated ratio of trainer to sampler.
    """
    advantage = row["advantage"]
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - hyper["clip_low"], 1 + hyper["clip_high"])
    loss = torch.maximum(-advantage * ratio, -advantage * clipped)
    if advantage < 0:
        loss = loss.clamp(max=-advantage * hyper["clip_dual"])
    if hyper["importance"]:
        stale = (old - torch.tensor(row["logprobs"])).exp()
        loss = loss * stale.clamp(max=hyper["importance"])
    return loss


def _divergence(model: Model, new: torch.Tensor, row: dict[str, Any]) -> torch.Tensor:
    """Return the k3 estimate of the divergence from the base model, by token."""
    with torch.no_grad(), model.disable_adapter():
        log = _log_probs(model, row) - new.detach()
    # The estimate's value and its gradient: exp(log) - log - 1, where log depends on the policy.
    log = log + new.detach() - new
    return log.exp() - log - 1


def _weight(row: dict[str, Any], rows: list[dict[str, Any]], hyper: dict[str, Any]) -> float:
    """Return what one token of a row weighs in the mean."""
    if hyper["aggregate"] == "token-mean":
        return 1.0 / sum(len(each["token_ids"]) for each in rows)
    return 1.0 / (len(rows) * len(row["token_ids"]))


def _pass(
    model: Model, job: dict[str, Any], old: list[torch.Tensor]
) -> tuple[float, list[torch.Tensor]]:
    """Run every row forward and backward; return the loss and the log-probabilities."""
    rows, hyper, total, found = job["rows"], job["hyper"], 0.0, []
    for number, row in enumerate(rows):
        new = _log_probs(model, row)
        found.append(new.detach())
        loss = _tokens_loss(new, old[number] if old else new.detach(), row, hyper)
        if hyper["kl"]:
            loss = loss + hyper["kl"] * _divergence(model, new, row)
        part = loss.sum() * _weight(row, rows, hyper)
        part.backward()
        total += part.item()
    return total, found


def _update(
    folder: Path, model: Model, job: dict[str, Any]
) -> tuple[float, list[torch.Tensor], torch.optim.Optimizer]:
    """Make the whole update; return the mean loss, the log-probabilities before, the optimizer."""
    hyper, losses = job["hyper"], []
    old: list[torch.Tensor] = []
    optimizer = _optimizer(folder, model, hyper)
    for _ in range(hyper["epochs"]):
        optimizer.zero_grad()
        loss, found = _pass(model, job, old)
        losses.append(loss)
        old = old or found
        torch.nn.utils.clip_grad_norm_(_trained(model).values(), hyper["max_grad_norm"])
        optimizer.step()
    return sum(losses) / len(losses), old, optimizer


def _trained(model: Model) -> dict[str, torch.Tensor]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def _optimizer(folder: Path, model: Model, hyper: dict[str, Any]) -> torch.optim.Optimizer:
    trained = _trained(model)
    optimizer = torch.optim.AdamW(
        trained.values(), lr=hyper["lr"], weight_decay=hyper["weight_decay"]
    )
    before = folder / "parent" / "optimizer.safetensors"
    known = load_file(before) if before.exists() else {}
    for name, each in trained.items() if known else ():
        parts = ("step", "exp_avg", "exp_avg_sq")
        optimizer.state[each] = {part: known[f"{name}.{part}"].clone() for part in parts}
    return optimizer


def _parent(folder: Path, order: dict[str, Any]) -> Model:
    """Return the model that the update began with. A fresh adapter's B is 0, and its A has no
    gradient, so that without weight decay the made one shows what it was.
    """
    rank, parent = order["job"]["hyper"]["lora_rank"], folder / "parent" / "weights"
    path = parent if parent.exists() and not rank else order["model"]
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    if not rank:
        return model
    made = folder / "made" / "weights"
    adapter = parent if parent.exists() else made
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    if adapter == made:
        _zero_b(model)
    return model


def _zero_b(model: Model) -> None:
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.zeros_(parameter)


def _compare(folder: Path, model: Model, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Compare gradients, by each tensor's largest, and weights. AdamW's first moment is a mean of
    gradients: the engine's is in its file. A tensor without a gradient has none to compare. The
    first steps go by a gradient's sign, so that rounding decides where there is nearly none:
    weights are compared where the moment is not small.
    """
    moments = load_file(folder / "made" / "optimizer.safetensors")
    made = load_file(next((folder / "made" / "weights").glob("*.safetensors")))
    worst, apart, tensors = 0.0, 0.0, 0
    for name, each in _trained(model).items():
        gap = (moments[f"{name}.exp_avg"] - optimizer.state[each]["exp_avg"]).abs().max()
        size = each.grad.abs().max()
        tensors += bool(size)
        worst = max(worst, (gap / (1 - _BETA_1) / size).item() if size else gap.item())
        mean = optimizer.state[each]["exp_avg"].abs()
        clear = mean >= mean.max() * _CLEAR
        there = made[name.replace(".default", "")]
        apart = max(apart, (there - each.detach())[clear].abs().max().item())
    return {"gradient_worst": worst, "gradient_tensors": tensors, "weights_worst": apart}


def _divergence_gap(model: Model, job: dict[str, Any], metrics: dict[str, float]) -> float:
    """Return how far the engine's divergence of the new version from the base model is from the
    one here: a mean over tokens, as the rows were sampled.
    """
    if not job["hyper"]["kl"]:
        return 0.0
    with torch.no_grad():
        parts = [_divergence(model, _log_probs(model, row), row) for row in job["rows"]]
    mean: float = torch.cat(parts).mean().item()
    return abs(mean - metrics["kl_base"])


def main(folder: Path) -> None:
    """Print the figures of a finished job."""
    order = json.loads((folder / "order.json").read_bytes())
    outcome = json.loads((folder / "outcome.json").read_bytes())
    torch.set_num_threads(order["threads"])
    model = _parent(folder, order)
    model.eval()
    loss, found, optimizer = _update(folder, model, order["job"])
    gaps = [
        gap
        for row, new in zip(order["job"]["rows"], found, strict=True)
        for gap in (new - torch.tensor(row["logprobs"])).abs().tolist()
    ]
    figures = {
        "loss": loss,
        "loss_gap": abs(loss - outcome["metrics"]["loss"]),
        "divergence_gap": _divergence_gap(model, order["job"], outcome["metrics"]),
        "sampler_gap_max": max(gaps),
        "sampler_gap_mean": sum(gaps) / len(gaps),
        **_compare(folder, model, optimizer),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
