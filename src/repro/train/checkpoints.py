"""Checkpoints of a PPO run: what gradients are read from later, and what a killed run goes on from.

checkpoints/<step>/, a step being an Adam step: the policy's adapter as PEFT keeps it (or the whole model, where all
weights learn), moments.safetensors ("<parameter>.exp_avg", "<parameter>.exp_avg_sq") and state.json {"step": 40,
"learning_rate": 9.5e-05, "betas": [0.9, 0.999], "eps": 1e-05}. The newest also has loop/, all that the loop needs.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repro.models.lora import save_adapter
from repro.train.actor import Actor
from repro.train.loop import Record

CHECKPOINTS, LOOP, MOMENTS = "checkpoints", "loop", ("exp_avg", "exp_avg_sq")
BASE = "policy"  # what an adapter's configuration calls the model that it sits on


@dataclass
class Run:
    """A run so far. history: a list a figure, one number an iteration; interactions: every answer, a dict each."""

    iteration: int = 0
    step: int = 0
    coefficient: float = 0.0
    history: Record = field(default_factory=dict)
    interactions: list[dict[str, Any]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run in a folder; each is whole or not there, whenever the run is killed."""

    def __init__(self, actor: Actor, optimiser: torch.optim.Adam, scratch: Path):
        self.actor, self.optimiser, self.folder, self.last = actor, optimiser, scratch / CHECKPOINTS, 0

    def save(self, run: Run) -> None:
        """Keep the run as it is now. state.json's learning rate: the mean over the steps since the last one."""
        policy, values = self.actor.weights()
        partial, whole = self.folder / "partial", self.folder / str(run.step)
        shutil.rmtree(partial, ignore_errors=True)
        (partial / LOOP).mkdir(parents=True)
        if self.actor.rules.lora_rank:
            save_adapter(self.actor.policy, partial, BASE)
        else:
            self.actor.policy.save_pretrained(partial)
        save_file(self._moments(policy), partial / "moments.safetensors")
        save_file(self._moments(values), partial / LOOP / "moments.safetensors")
        for name, weights in (("policy", policy), ("values", values)):
            save_file({key: _still(weight) for key, weight in weights.items()}, partial / LOOP / f"{name}.safetensors")
        (partial / LOOP / "run.json").write_text(json.dumps(asdict(run)))
        rates = run.history["learning_rate"][self.last :]
        group = self.optimiser.param_groups[0]
        state = {
            "step": run.step,
            "learning_rate": sum(rates) / len(rates),
            "betas": group["betas"],
            "eps": group["eps"],
        }
        (partial / "state.json").write_text(json.dumps(state))
        os.replace(partial, whole)
        for older in self.folder.glob(f"*/{LOOP}"):
            if older.parent != whole:
                shutil.rmtree(older)
        self.last = run.iteration

    def restore(self, run: Run) -> None:
        """Bring actor, optimiser and run to where the newest checkpoint left them, bit for bit; without one, nothing."""
        found = sorted((int(each.parent.name), each) for each in self.folder.glob(f"[0-9]*/{LOOP}"))
        if not found:
            return
        step, loop = found[-1]
        for name, weights, moments in zip(("policy", "values"), self.actor.weights(), (loop.parent, loop), strict=True):
            kept, state = load_file(loop / f"{name}.safetensors"), load_file(moments / "moments.safetensors")
            with torch.no_grad():
                for key, weight in weights.items():
                    weight.copy_(kept[key])
                    if f"{key}.{MOMENTS[0]}" in state:
                        mine = {each: state[f"{key}.{each}"].to(weight) for each in MOMENTS}
                        count = torch.tensor(float(step), device=weight.device)
                        self.optimiser.state[weight] = {"step": count, **mine}
        for name, value in json.loads((loop / "run.json").read_text()).items():
            setattr(run, name, value)
        self.last = run.iteration

    def _moments(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        state = self.optimiser.state
        return {
            f"{key}.{name}": _still(state[each][name])
            for key, each in weights.items()
            for name in MOMENTS
            if state[each]
        }


def _still(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
