"""An iteration of our PPO against one of TRL 1.12's, the last release that had PPO: 32 answers of 32 tokens, 4 epochs.

A Llama of 2 layers and width 64, a reward model of the same shape, one minibatch, one thread on either side, in fp32.
TRL needs a value model of its own, of the same shape; ours is timed with one and, as a small machine would have it, with
a value head on the policy's decoder, whose values come out of the pass that gives the log-probabilities.

TRL 1.12 runs in an environment of its own under `runs/`, which takes all but TRL from this one, so that both sides have
the same torch; it is made on the first call, and without a package index the lines are left out. TRL's trainer stands
still between two iterations until the clock asks for the next. Before the clock starts, both sides must have seen the
same: 32 x 32 tokens an iteration, no KL in the first, and first mean scores within five standard errors.
"""

import copy
import json
import math
import os
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel

from benchmarks.harness import Benchmark, compare
from repro.core.paths import runs_folder
from repro.models.scratch import word_tokenizer
from repro.objectives.ensemble import aggregate
from repro.train.actor import SEPARATE, SHARED, Actor, Rules
from repro.train.ppo import train_ppo

PEER = "trl==1.12.0"
ROWS, NEW, EPOCHS, PROMPT = 32, 32, 4, 16
RULES = Rules(
    iterations=1,
    rollouts=ROWS,
    max_new_tokens=NEW,
    epochs=EPOCHS,
    learning_rate=1e-4,
    anneal="constant",
    lora_rank=None,
    checkpoint_every=10**6,
)
TARGETS = {SHARED: 3.0, SEPARATE: 3.0}

# Runs under TRL 1.12: a line in, one iteration, its figures as a line out.
SCRIPT = """
import json, sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

torch.set_num_threads(1)
folder, rows, new, epochs, rate = sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5])
channel, sys.stdout = sys.stdout, sys.stderr

class Clock(TrainerCallback):
    last = {}
    def on_log(self, args, state, control, logs=None, **more):
        self.last = logs
    def on_step_end(self, args, state, control, **more):
        figures = {name: self.last["objective/" + name] for name in ("scores", "kl")}
        print(json.dumps(figures), file=channel, flush=True)
        if not sys.stdin.readline():
            raise SystemExit

tokenizer = AutoTokenizer.from_pretrained(folder + "/policy")
policy, reference = (AutoModelForCausalLM.from_pretrained(folder + "/policy") for _ in range(2))
scalar = AutoModelForSequenceClassification
reward, value = (scalar.from_pretrained(folder + "/" + name, num_labels=1) for name in ("reward", "value"))
for model in (policy, reference, reward, value):
    model.config.pad_token_id = tokenizer.pad_token_id
prompts = json.load(open(folder + "/prompts.json"))
config = PPOConfig(
    output_dir=folder + "/out", per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_mini_batches=1,
    num_ppo_epochs=epochs, response_length=new, total_episodes=rows * 100000, learning_rate=rate, temperature=1.0,
    kl_coef=0.05, kl_estimator="k1", cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, gamma=1.0, lam=0.95,
    stop_token=None, num_sample_generations=0, lr_scheduler_type="constant", report_to="none", save_strategy="no",
    bf16=False, use_cpu=True, logging_steps=1, disable_tqdm=True, seed=0)
trainer = PPOTrainer(
    args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward, value_model=value,
    train_dataset=Dataset.from_dict({"input_ids": prompts}), eval_dataset=Dataset.from_dict({"input_ids": prompts}),
    callbacks=[Clock()])
sys.stdin.readline()
trainer.train()
"""


def _environment() -> Path | None:
    """A Python that has TRL 1.12 before all that this one has; None, with a line that says why, if it cannot be had."""
    folder = runs_folder() / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    check = [str(python), "-c", f"import trl, sys; sys.exit(trl.__version__ != {PEER.split('==')[1]!r})"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    try:
        venv.create(folder, with_pip=True, clear=True)
        inside = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(inside) / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "-q", "--no-deps", PEER]
        subprocess.run(install, check=True, capture_output=True, text=True)
        subprocess.run(check, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        print(f"PPO against {PEER}: left out, it cannot be installed ({' '.join(last)})", flush=True)
        return None
    return python


@contextmanager
def _peer(python: Path, folder: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """TRL's trainer in a process of its own; each call is one iteration and gives mean score and KL of its answers."""
    given = [str(each) for each in (folder, ROWS, NEW, EPOCHS, RULES.learning_rate)]
    own = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    log = (folder / "trl.log").open("w+")
    process = subprocess.Popen(
        [str(python), "-c", SCRIPT, *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=own,
    )

    def iteration() -> dict[str, float]:
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            log.seek(0)
            raise RuntimeError(f"TRL's trainer ended:\n{log.read()[-2000:]}")
        return json.loads(line)

    try:
        yield iteration
    finally:
        process.kill()
        process.communicate()
        log.close()


def _world(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedModel, list[list[int]]]:
    """Policy, reward model and prompts, all of them in the folder too; no token ends an answer."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = word_tokenizer([" ".join([f"word{first}{second}" for first in letters for second in letters][:645])])
    tokenizer.save_pretrained(folder / "policy")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    policy = LlamaForCausalLM(config)
    config.num_labels = 1
    reward, value = LlamaForSequenceClassification(config), LlamaForSequenceClassification(config)
    for name, model in {"policy": policy, "reward": reward, "value": value}.items():
        model.save_pretrained(folder / name)
    prompts = torch.randint(6, len(tokenizer), (8 * ROWS, PROMPT)).tolist()
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return policy.eval(), reward.eval(), prompts


@torch.no_grad()
def _scores(reward: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    """(1, rows): the head's output at each last token, all rows in one padded batch."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    hidden = reward.model(input_ids=ids, use_cache=False).last_hidden_state
    return reward.score(hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]).T


def _check(first: dict[str, float], run: object) -> None:
    """Raises AssertionError unless the first iterations of both sides looked at the same."""
    history = run.history
    assert history["length"] == [NEW] and run.step == EPOCHS, "ours did other work"
    assert history["kl"] == [0.0] and abs(first["kl"]) < 1e-3, f"KL {history['kl']} and {first['kl']} at the start"
    room = 5 * history["score_sd"][0] * math.sqrt(2 / ROWS)
    assert abs(history["score"][0] - first["scores"]) < room, f"scores {history['score']} and {first['scores']}"


def bench() -> list[Benchmark]:
    """A line a value head, seconds an iteration, or none without TRL 1.12; the number of threads is restored after."""
    os.environ.setdefault("REPRO_BATCH", "1")  # no bars between the lines
    if (python := _environment()) is None:
        return []
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            policy, reward, prompts = _world(Path(name))
            score, combine = partial(_scores, reward), partial(aggregate, how="mean")
            with _peer(python, Path(name)) as peer:
                first = peer()
                for head, target in TARGETS.items():
                    actor = Actor(copy.deepcopy(policy), replace(RULES, value_head=head), 0)
                    ours = partial(train_ppo, actor, prompts, score, combine, 0, ends=[])
                    _check(first, ours())
                    line = f"PPO, {head} value head, {ROWS} x {NEW} tokens, {PEER}"
                    found.append(compare(line, ours, peer, repeats=9, target_ratio=target))
    finally:
        torch.set_num_threads(threads)
    return found
