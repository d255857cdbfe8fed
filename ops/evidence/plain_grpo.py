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


def _log_probs(model: Model, row: dict[str, Any]) -> torch.Tensor:
    """Return the answer's log-probabilities, (answer tokens,)."""
    ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row["prompt_ids"]) - 1 : -1]
    answer = torch.tensor(row["token_ids"])
    return torch.log_softmax(logits, -1).gather(1, answer[:, None])[:, 0]


def _tokens_loss(new: torch.Tensor, row: dict[str, Any], hyper: dict[str, Any]) -> torch.Tensor:
    """Return GRPO's loss of each token: the clipped ratio of PPO (arXiv 1707.06347) with the dual
    clip of arXiv 1912.09729, weighed by the truncated ratio of trainer to sampler.
    """
    old, advantage = new.detach(), row["advantage"]
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


def _gradients(model: Model, job: dict[str, Any]) -> tuple[float, list[float]]:
    """Run every row forward and backward; return the loss, and how far log-probabilities are."""
    rows, hyper, total, gaps = job["rows"], job["hyper"], 0.0, []
    for row in rows:
        new = _log_probs(model, row)
        loss = _tokens_loss(new, row, hyper)
        if hyper["kl"]:
            loss = loss + hyper["kl"] * _divergence(model, new, row)
        part = loss.sum() * _weight(row, rows, hyper)
        part.backward()
        total += part.item()
        gaps += (new.detach() - torch.tensor(row["logprobs"])).abs().tolist()
    return total, gaps


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


def _engines(folder: Path, name: str) -> torch.Tensor:
    """Return the gradient that the engine had: AdamW's first moment is a mean of gradients."""
    after = load_file(folder / "made" / "optimizer.safetensors")[f"{name}.exp_avg"]
    before = folder / "parent" / "optimizer.safetensors"
    last = load_file(before)[f"{name}.exp_avg"] if before.exists() else torch.zeros_like(after)
    return (after - _BETA_1 * last) / (1 - _BETA_1)


def _compare(folder: Path, model: Model) -> dict[str, float]:
    """Compare gradients, by the largest of each tensor: a tensor of zeros has none to compare."""
    worst, tensors, scale = 0.0, 0, 0.0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        engines = _engines(folder, name)
        size = parameter.grad.abs().max().item()
        if size:
            worst = max(worst, (engines - parameter.grad).abs().max().item() / size)
            tensors, scale = tensors + 1, max(scale, size)
        elif engines.any():
            worst = float("inf")
    return {"gradient_worst": worst, "gradient_tensors": tensors, "gradient_largest": scale}


def _stepped(folder: Path, model: Model, hyper: dict[str, Any]) -> float:
    """Make AdamW's step here too; return how far the engine's weights are at most."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=hyper["lr"], weight_decay=hyper["weight_decay"]
    )
    before = folder / "parent" / "optimizer.safetensors"
    known = load_file(before) if before.exists() else {}
    for name, each in trained.items() if known else ():
        parts = ("step", "exp_avg", "exp_avg_sq")
        optimizer.state[each] = {part: known[f"{name}.{part}"] for part in parts}
    optimizer.step()
    made = load_file(next((folder / "made" / "weights").glob("*.safetensors")))
    pairs = ((made[name.replace(".default", "")], each) for name, each in trained.items())
    return float(max((there - here.detach()).abs().max() for there, here in pairs))


def main(folder: Path) -> None:
    """Print the figures of a finished job."""
    order = json.loads((folder / "order.json").read_bytes())
    outcome = json.loads((folder / "outcome.json").read_bytes())
    torch.set_num_threads(order["threads"])
    model = _parent(folder, order)
    model.eval()
    loss, gaps = _gradients(model, order["job"])
    figures = {
        "loss": loss,
        "loss_gap": abs(loss - outcome["metrics"]["loss"]),
        "sampler_gap_max": max(gaps),
        "sampler_gap_mean": sum(gaps) / len(gaps),
        **_compare(folder, model),
        "weights_worst": _stepped(folder, model, order["job"]["hyper"]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
