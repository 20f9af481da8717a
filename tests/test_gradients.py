"""Per-example gradients, directions, projections and scores of a small model, each against something independent."""

import copy
import hashlib
import json
import math

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from repro.core.artifacts import external, run
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.gradients.checkpoints import Checkpoint, checkpoint_folders, checkpoints, read_moments
from repro.gradients.directions import Moments, directions
from repro.gradients.influence import EXACT, Scoring, influence_scores
from repro.gradients.losses import answer_losses, encode_samples, preference_losses, regression_losses
from repro.gradients.per_example import layout, per_example_gradients
from repro.gradients.projection import Projection, cosine_deviation, expected_correlation
from repro.gradients.scores import influence_scoring, read_influence
from repro.models.logprobs import Tree
from repro.models.scratch import random_model, word_tokenizer
from repro.objectives.influence import loss_change, subtask_influence

VOCABULARY = 40
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}


def adapted(kind=LlamaForCausalLM, seed=0, **changes):
    """A small model in double precision with LoRA on every linear layer, B away from its zeros."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2) if kind is GPT2LMHeadModel else None
    base = kind(config or LlamaConfig(**SMALL, num_labels=1))
    task = TaskType.SEQ_CLS if kind is LlamaForSequenceClassification else TaskType.CAUSAL_LM
    options = {"r": 2, "target_modules": "all-linear", "task_type": task, "lora_dropout": 0.1} | changes
    model = get_peft_model(base, LoraConfig(**options)).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def trees(count, seed=0):
    """Prompts of 2 to 6 random tokens and answers of 1 to 7."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [
        (int(torch.randint(2, 7, (), generator=draw)), int(torch.randint(1, 8, (), generator=draw)))
        for _ in range(count)
    ]
    tokens = [torch.randint(1, VOCABULARY, (left + right,), generator=draw) for left, right in sizes]
    return [Tree(each[:left], (each[left:],), (0,)) for each, (left, _) in zip(tokens, sizes, strict=True)]


@pytest.fixture(scope="module")
def model():
    return adapted()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints of a run of Adam on the small model, written as the PPO loop writes them."""
    path, policy = tmp_path_factory.mktemp("policy"), adapted()
    weights = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    adam = torch.optim.Adam(weights.values(), lr=1e-2)
    for step in (1, 2, 3, 4):
        adam.zero_grad()
        answer_losses(policy, trees(6, seed=100 + step)).mean().backward()
        adam.step()
        if step % 2 == 0:
            policy.save_pretrained(path / str(step))
            moments = {
                f"{name}.{kind}": adam.state[weight][kind].float()
                for name, weight in weights.items()
                for kind in ("exp_avg", "exp_avg_sq")
            }
            save_file(moments, path / str(step) / "moments.safetensors")
            state = {"step": step, "learning_rate": 0.01 / step, "betas": [0.9, 0.999], "eps": 1e-8}
            (path / str(step) / "state.json").write_text(json.dumps(state))
    return path


def base():
    """What the fixture's adapters were trained on."""
    return adapted().unload()


class TestPerExample:
    def test_batched_is_one_by_one(self, model):
        samples = trees(9)
        batched = per_example_gradients(model, answer_losses, samples)
        alone = per_example_gradients(model, answer_losses, samples, batched=False)
        assert batched.shape == (9, layout(model).weights)
        assert ((batched - alone).norm(dim=1) / alone.norm(dim=1)).max() < 1e-6

    def test_in_single_precision_too(self):
        model, samples = adapted().float(), trees(9)
        batched = per_example_gradients(model, answer_losses, samples)
        alone = per_example_gradients(model, answer_losses, samples, batched=False)
        assert ((batched - alone).norm(dim=1) / alone.norm(dim=1)).max() < 1e-5 and batched.dtype == torch.float32

    def test_their_mean_is_the_batchs_gradient_in_the_layouts_order(self, model):
        samples = trees(5)
        found = per_example_gradients(model, answer_losses, samples).mean(0)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        expected = torch.autograd.grad(answer_losses(model, samples).mean(), weights)
        torch.testing.assert_close(found, torch.cat([each.flatten() for each in expected]))
        places = layout(model)
        assert places.starts[1] == expected[0].numel() and places.shapes[1] == expected[1].shape

    @pytest.mark.parametrize("changes", [{"use_rslora": True}, {"bias": "lora_only", "lora_bias": True}, {"r": 3}])
    @pytest.mark.parametrize("kind", [LlamaForCausalLM, GPT2LMHeadModel])
    def test_other_adapters_and_architectures(self, kind, changes):
        if kind is GPT2LMHeadModel:
            changes = changes | {"fan_in_fan_out": True, "bias": "none"}
        policy, samples = adapted(kind, **changes), [torch.randint(0, VOCABULARY, (7,)) for _ in range(4)]

        def losses(model, rows):
            logits = model(input_ids=torch.stack(list(rows))).logits[:, :-1]
            return cross_entropy(logits.mT, torch.stack(list(rows))[:, 1:], reduction="none").mean(1)

        batched = per_example_gradients(policy, losses, samples)
        torch.testing.assert_close(batched, per_example_gradients(policy, losses, samples, batched=False))

    def test_a_reward_models_losses_with_its_head(self):
        reward, draw = adapted(LlamaForSequenceClassification), torch.Generator().manual_seed(3)
        rows = [torch.randint(1, VOCABULARY, (3 + place,), generator=draw) for place in range(8)]
        pairs, labelled = list(zip(rows[::2], rows[1::2], strict=True)), [(row, 0.3) for row in rows]
        for losses, samples in ((preference_losses, pairs), (regression_losses, labelled)):
            batched = per_example_gradients(reward, losses, samples)
            torch.testing.assert_close(batched, per_example_gradients(reward, losses, samples, batched=False))
        assert any("score" in name for name in layout(reward).names)

    def test_the_losses_by_hand(self, model):
        """The answer's tokens and no others; -log σ of a difference; a square."""
        sample = trees(1)[0]
        whole = torch.cat([sample.prompt, sample.answers[0]])
        logits = model(input_ids=whole[None]).logits[0, len(sample.prompt) - 1 : -1]
        torch.testing.assert_close(answer_losses(model, [sample])[0], cross_entropy(logits, sample.answers[0]))
        reward = adapted(LlamaForSequenceClassification)
        first, second = (reward(input_ids=each[None, :4]).logits.flatten().float() for each in (whole, whole.flip(0)))
        found = preference_losses(reward, [(whole[:4], whole.flip(0)[:4])])
        torch.testing.assert_close(found, -torch.sigmoid(first - second).log())
        torch.testing.assert_close(regression_losses(reward, [(whole[:4], 2.0)]), (first - 2).square())

    def test_texts_become_samples_whose_answers_end(self, model):
        tokenizer = word_tokenizer(["say yes or no"])
        found = encode_samples(model, tokenizer, [(("user", "say"),)] * 2, ["yes", "no no"], limit=32)
        assert [len(each.answers[0]) for each in found] == [2, 3]
        assert all(each.answers[0][-1] == tokenizer.eos_token_id for each in found)

    def test_a_weight_outside_linear_layers_is_named(self):
        policy = adapted()
        policy.get_input_embeddings().weight.requires_grad_(True)
        with pytest.raises(DataError, match="embed_tokens.weight: a trainable weight of a"):
            per_example_gradients(policy, answer_losses, trees(2))
        assert per_example_gradients(policy, answer_losses, trees(2), batched=False).shape[1] == layout(policy).weights

    def test_bad_input(self, model):
        with pytest.raises(DataError, match="no samples"):
            per_example_gradients(model, answer_losses, [])
        with pytest.raises(DataError, match="one loss a sample"):
            per_example_gradients(model, lambda m, rows: answer_losses(m, rows).mean(), trees(2))
        with pytest.raises(DataError, match="no trainable weights"):
            layout(torch.nn.Linear(2, 2).requires_grad_(False))


def one_step(policy, sample, name, rate, folder, validation):
    """How far torch's own optimiser, with the folder's state, moves the weights on one sample; the loss after it."""
    weights = {key: weight for key, weight in policy.named_parameters() if weight.requires_grad}
    start = torch.cat([weight.detach().flatten() for weight in weights.values()])
    optimiser = (torch.optim.SGD if name == "sgd" else torch.optim.Adam)(weights.values(), lr=rate)
    if name == "adam":
        saved = load_file(folder / "moments.safetensors")
        for key, weight in weights.items():
            state = {kind: saved[f"{key}.{kind}"].double() for kind in ("exp_avg", "exp_avg_sq")}
            optimiser.state[weight] = {"step": torch.tensor(4.0), **state}
    answer_losses(policy, [sample])[0].backward()
    optimiser.step()
    moved = torch.cat([weight.detach().flatten() for weight in weights.values()]) - start
    return moved, answer_losses(policy, validation).mean().item()


class TestDirections:
    def test_the_docstrings_example(self):
        moments = Moments(torch.tensor([0.1]), torch.tensor([0.001]), step=1, epsilon=0.0)
        gradient = torch.tensor([[1.0]])
        assert directions(gradient, moments, "adam").item() == pytest.approx(1.0, abs=1e-6)
        assert directions(gradient, moments, "printed").item() == pytest.approx(1.0, abs=1e-6)
        assert directions(gradient, moments, "less").item() == pytest.approx(0.19 / math.sqrt(0.001999))

    def test_where_epsilon_stands(self):
        """v' = 0: outside the root epsilon is the divisor, inside its root is."""
        moments = Moments(torch.tensor([1.0]), torch.tensor([0.0]), step=10**6, epsilon=1e-8)
        found = [directions(torch.zeros(1, 1), moments, name).item() for name in ("adam", "printed", "less")]
        assert found == pytest.approx([0.9 / 1e-8, 0.9 / 1e-4, 0.9 / 1e-4])

    def test_less_as_its_code_writes_it(self):
        draw = torch.Generator().manual_seed(0)
        gradients, first = torch.randn(4, 30, generator=draw), torch.randn(30, generator=draw)
        second = torch.rand(30, generator=draw)
        updated, squares = 0.9 * first + 0.1 * gradients, 0.999 * second + 0.001 * gradients**2
        expected = updated / torch.sqrt(squares + 1e-8)
        torch.testing.assert_close(directions(gradients, Moments(first, second, 7), "less"), expected)

    @pytest.mark.parametrize(("name", "rate"), [("sgd", 1e-2), ("adam", 4e-4)])
    def test_the_first_order_change_is_what_a_real_step_does(self, folder, name, rate):
        """Real optimisers from a checkpoint with its state: weights move by -rate Γ, the loss by -rate <∇L(z'), Γ>."""
        [point] = checkpoints(base(), [folder / "4"])
        policy, validation = point.model.double(), trees(3, seed=7)
        before = answer_losses(policy, validation).mean().item()
        gradient = per_example_gradients(policy, answer_losses, validation).mean(0)
        for sample in validation:
            direction = directions(per_example_gradients(policy, answer_losses, [sample]), point.moments, name)[0]
            left = []
            for each in (rate, rate / 4):
                moved, after = one_step(copy.deepcopy(policy), sample, name, each, folder / "4", validation)
                torch.testing.assert_close(moved, -each * direction, rtol=1e-5, atol=1e-5 * each)
                expected = loss_change(gradient, -each * direction).item()
                left.append(abs(after - before - expected))
            assert left[1] < 0.1 * abs(expected), f"sign and size: {after - before} for {expected}"
            assert left[1] < left[0] / 10, "a quarter of the rate leaves a sixteenth: the first order is right"

    def test_printed_is_adam_but_for_epsilon(self):
        draw = torch.Generator().manual_seed(0)
        gradients, moments = torch.randn(3, 20, generator=draw), Moments(torch.ones(20), torch.ones(20), 5)
        printed, adam = directions(gradients, moments), directions(gradients, moments, "adam")
        torch.testing.assert_close(printed, adam, rtol=1e-6, atol=1e-6)

    def test_bad_input(self):
        with pytest.raises(SettingsError, match="sgd, printed, adam, less"):
            directions(torch.zeros(1, 2), None, "momentum")
        with pytest.raises(DataError, match="no optimiser state"):
            directions(torch.zeros(1, 2))
        with pytest.raises(DataError, match="moments of"):
            directions(torch.zeros(1, 2), Moments(torch.zeros(3), torch.zeros(3), 1))


class TestCheckpoints:
    def test_weights_moments_and_rates_follow_the_folder(self, folder):
        for point in checkpoints(base(), checkpoint_folders(folder)):
            saved = load_file(folder / point.name / "adapter_model.safetensors")
            names = layout(point.model).names
            for name in names:
                torch.testing.assert_close(
                    point.model.get_parameter(name).detach(), saved[name.replace(".default", "")]
                )
            moments = load_file(folder / point.name / "moments.safetensors")
            expected = torch.cat([moments[f"{name}.exp_avg_sq"].flatten() for name in names])
            assert torch.equal(point.moments.second, expected) and point.moments.step == int(point.name)
            assert point.rate == 0.01 / int(point.name)
        assert point.name == "4"

    def test_moments_are_matched_by_name_and_not_by_order(self, folder, tmp_path):
        """The same state with names reversed, and in PEFT's spelling on disk: the same vector."""
        [point] = checkpoints(base(), [folder / "2"])
        saved = load_file(folder / "2" / "moments.safetensors")
        for rename in (str, lambda key: key.replace(".default.", ".")):
            again = {rename(key): saved[key] for key in reversed(list(saved))}
            save_file(again, tmp_path / "moments.safetensors")
            (tmp_path / "state.json").write_text((folder / "2" / "state.json").read_text())
            assert torch.equal(read_moments(point.model, tmp_path).first, point.moments.first)

    def test_a_missing_moment_is_named(self, folder, tmp_path):
        [point] = checkpoints(base(), [folder / "2"])
        saved = load_file(folder / "2" / "moments.safetensors")
        lost = f"{layout(point.model).names[3]}.exp_avg_sq"
        save_file({key: value for key, value in saved.items() if key != lost}, tmp_path / "moments.safetensors")
        (tmp_path / "state.json").write_text((folder / "2" / "state.json").read_text())
        with pytest.raises(DataError, match="1 of 28 moments are missing, first " + lost.replace(".", r"\.")):
            read_moments(point.model, tmp_path)
        save_file(saved | {lost: torch.zeros(1)}, tmp_path / "moments.safetensors")
        with pytest.raises(DataError, match="moments of .* weights for an adapter of"):
            read_moments(point.model, tmp_path)

    def test_what_is_not_there_is_named(self, folder, tmp_path):
        with pytest.raises(DataError, match="no checkpoints"):
            checkpoint_folders(tmp_path)
        with pytest.raises(DataError, match="2 rates for 1 checkpoints"):
            list(checkpoints(base(), [folder / "2"], [0.1, 0.2]))
        with pytest.raises(DataError, match=r"adapter_model.safetensors: no adapter weights"):
            list(checkpoints(base(), [tmp_path]))
        [point] = checkpoints(base(), [folder / "2"], moments=False)
        assert point.moments is None
        with pytest.raises(DataError, match="no optimiser state"):
            read_moments(point.model, tmp_path)
        save_file(load_file(folder / "2" / "moments.safetensors"), tmp_path / "moments.safetensors")
        (tmp_path / "state.json").write_text('{"step": 2, "learning_rate": 0.1, "eps": 1e-8}')
        with pytest.raises(DataError, match="betas is missing"):
            read_moments(point.model, tmp_path)


def whole_numbers(*shape, seed=0):
    """Floats whose sums are exact in any order."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).double()


class TestProjection:
    def test_blocks_of_any_size_are_the_same_matrix(self):
        rows = whole_numbers(5, 333)
        expected = Projection(200, seed=3).project(rows)
        for size in (1, 4, 50, 333, 10**6):
            assert torch.equal(Projection(200, seed=3, rows_at_once=size).project(rows), expected)
        signs = Projection(200, seed=3).signs(0, 333).double()
        assert torch.equal(rows @ signs / math.sqrt(200), expected) and signs.abs().unique().tolist() == [1.0]
        assert torch.equal(Projection(200, seed=3).signs(7, 30).double(), signs[7:30])

    def test_order_of_samples_and_linearity(self):
        rows, order = whole_numbers(6, 100), torch.tensor([3, 1, 5, 0, 2, 4])
        projection = Projection(64, seed=1)
        assert torch.equal(projection.project(rows[order]), projection.project(rows)[order])
        both = projection.project((2 * rows[0] - 3 * rows[1])[None])
        torch.testing.assert_close(both, 2 * projection.project(rows[:1]) - 3 * projection.project(rows[1:2]))

    def test_a_smaller_dimension_is_the_first_columns(self):
        rows = whole_numbers(3, 90)
        small, large = Projection(70).project(rows) * math.sqrt(70), Projection(512).project(rows) * math.sqrt(512)
        torch.testing.assert_close(small, large[:, :70])

    def test_the_signs_are_the_same_on_every_run_and_machine(self):
        signs = Projection(100, seed=5).signs(0, 40).to(torch.int8).numpy()
        assert hashlib.sha256(signs.tobytes()).hexdigest()[:16] == "fc71720802f334b4"
        assert (signs != Projection(100, seed=6).signs(0, 40).numpy()).mean() == pytest.approx(0.5, abs=0.05)

    def test_signs_are_fair_and_unrelated(self):
        signs = Projection(256).signs(0, 2000)
        assert abs(signs.mean().item()) < 5 / math.sqrt(signs.numel())
        products = (signs.T @ signs / 2000 - torch.eye(256)).abs().max().item()
        assert products < 6 / math.sqrt(2000)

    def test_cosines_stay_inside_the_johnson_lindenstrauss_band(self):
        """60 vectors of cosines -0.5 to 0.9 with one: spread and correlation of what 12 seeds make of them."""
        draw = torch.Generator().manual_seed(0)
        target, noise = torch.randn(3000, generator=draw), torch.randn(60, 3000, generator=draw)
        rows = torch.linspace(-0.6, 1.5, 60)[:, None] * target + noise
        exact = torch.cosine_similarity(rows, target[None])
        for dimension in (64, 256, 1024):
            scaled, correlations = [], []
            for seed in range(12):
                found = Projection(dimension, seed).project(torch.cat([rows, target[None]]))
                projected = torch.cosine_similarity(found[:-1], found[-1:])
                scaled.append((projected - exact) / cosine_deviation(exact, dimension))
                correlations.append(torch.corrcoef(torch.stack([projected, exact]))[0, 1].item())
            spread = torch.stack(scaled)
            assert spread.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.2)
            assert 0.9 < (spread.abs() < 2).float().mean().item() <= 1.0
            lost, expected = 1 - sum(correlations) / 12, 1 - expected_correlation(exact, dimension)
            assert 0.5 * expected < lost < 2 * expected

    @pytest.mark.parametrize("wrong", [{"dimension": 0}, {"dimension": 2.5}, {"dimension": 8, "seed": -1}])
    def test_bad_input(self, wrong):
        with pytest.raises(SettingsError, match="projection"):
            Projection(**wrong)
        with pytest.raises(SettingsError, match="rows_at_once"):
            Projection(8, rows_at_once=0)


SUBTASKS = {"helpful": trees(5, seed=30), "harmless": trees(4, seed=31)}


SAMPLES = trees(11, seed=20)


@pytest.fixture(scope="module")
def points(folder):
    """Both checkpoints at once, each with a model of its own, in double precision."""
    found = checkpoints(base(), checkpoint_folders(folder))
    return [Checkpoint(each.name, copy.deepcopy(each.model).double(), each.rate, each.moments) for each in found]


@pytest.fixture(scope="module")
def plain(points):
    """Everything stored, one sample at a time: gradients of SAMPLES and each subtask, (checkpoints, rows, weights)."""
    return [
        torch.stack([per_example_gradients(each.model, answer_losses, rows, batched=False) for each in points])
        for rows in (SAMPLES, *SUBTASKS.values())
    ]


class TestInfluence:
    @pytest.mark.parametrize("direction", ["sgd", "printed", "adam", "less"])
    @pytest.mark.parametrize("average", ["gradients", "cosines"])
    def test_streaming_is_the_formula_on_everything_stored(self, points, plain, direction, average):
        scoring = Scoring(direction, average, dimensions=(EXACT, 32, 100), batch_size=3)
        found = influence_scores(points, SAMPLES, SUBTASKS, answer_losses, scoring)
        moved = torch.stack([directions(g, p.moments, direction) for g, p in zip(plain[0], points, strict=True)])
        rates = torch.tensor([each.rate for each in points]).double()
        for dimension, scores in found.scores.items():
            parts = [moved, *plain[1:]]
            if dimension != EXACT:
                parts = [torch.stack([Projection(dimension).project(rows) for rows in part]) for part in parts]
            expected = subtask_influence(parts[0], parts[1:], rates, average)
            torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-8)
        assert found.subtasks == ("helpful", "harmless") and found.zero == {}

    def test_batches_and_order_of_samples_change_nothing(self, points):
        samples, order = trees(10, seed=20), [7, 3, 9, 0, 1, 8, 2, 6, 5, 4]
        scores = [
            influence_scores(points, rows, SUBTASKS, answer_losses, Scoring(batch_size=size, dimensions=(0, 64)))
            for rows, size in ((samples, 4), (samples, 64), ([samples[place] for place in order], 3))
        ]
        for dimension in (EXACT, 64):
            first, second, third = (each.scores[dimension] for each in scores)
            torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(first[order], third, rtol=1e-6, atol=1e-9)

    def test_rates_weigh_and_normalised_ones_sum_to_one(self, points):
        """A subtask that is the sample itself has the cosine 1 with its gradient at every checkpoint."""
        sample = trees(1, seed=20)
        for normalise, expected in ((False, 0.005 + 0.0025), (True, 1.0)):
            scoring = Scoring("sgd", normalise=normalise)
            found = influence_scores(points, sample, {"itself": sample}, answer_losses, scoring)
            assert found.scores[EXACT].item() == pytest.approx(expected)

    def test_a_reward_model_in_the_policys_place(self):
        reward = adapted(LlamaForSequenceClassification)
        rows = [tree.prompt for tree in trees(8, seed=4)]
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        found = influence_scores(
            [Checkpoint("last", reward, 1.0)],
            [(row, 0.5) for row in rows],
            {"pairs": pairs},
            regression_losses,
            Scoring("sgd"),
            preference_losses,
        )
        own = per_example_gradients(reward, regression_losses, [(row, 0.5) for row in rows], batched=False)
        mean = per_example_gradients(reward, preference_losses, pairs, batched=False).mean(0, keepdim=True)
        torch.testing.assert_close(found.scores[EXACT][:, 0], torch.cosine_similarity(own, mean).double())


class TestTheStep:
    def test_texts_to_scores_and_back(self, tmp_path, monkeypatch):
        """A run as the PPO loop leaves it, scored as an artifact: the scores of the functions it is made of."""
        monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
        monkeypatch.setenv("REPRO_BATCH", "1")
        tokenizer = word_tokenizer(["say yes or no and why not"])
        policy = random_model("miniature/0.1m", tokenizer, 0)
        policy.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        torch.manual_seed(0)
        adapter = get_peft_model(policy, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        where = tmp_path / "run" / "checkpoints" / "1"
        adapter.save_pretrained(where)
        moments = {
            f"{name}.{kind}": torch.full_like(adapter.get_parameter(name).detach(), 1e-3)
            for name in layout(adapter).names
            for kind in ("exp_avg", "exp_avg_sq")
        }
        save_file(moments, where / "moments.safetensors")
        (where / "state.json").write_text('{"step": 1, "learning_rate": 0.1, "betas": [0.9, 0.999], "eps": 1e-8}')
        ask, texts = (("user", "say"),), ["yes", "no and why", "or not"]
        settings = Section({"influence_direction": "printed", "influence_average": "gradients", "max_tokens": 32})
        settings = Section({**settings, "influence_dimensions": [0, 64], "influence_normalise": True, "device": "cpu"})
        given = [(ask, text) for text in texts]
        job = influence_scoring(
            given, {"yes": given[:1]}, settings, 3, base=external(tmp_path / "base"), run=external(tmp_path / "run")
        )
        found = read_influence(run(**job))
        rows = encode_samples(adapter.eval(), tokenizer, [ask] * 3, texts, limit=32)
        point = Checkpoint("1", adapter, 0.1, read_moments(adapter, where))
        scoring = Scoring(dimensions=(0, 64), seed=3, normalise=True)
        expected = influence_scores([point], rows, {"yes": rows[:1]}, answer_losses, scoring)
        assert set(found.scores) == {0, 64} and found.subtasks == ("yes",) and found.zero == {}
        for dimension, scores in expected.scores.items():
            torch.testing.assert_close(found.scores[dimension], scores, rtol=1e-4, atol=1e-5)


class TestInfluenceBadInput:
    def score(self, model, losses=answer_losses, samples=None, subtasks=SUBTASKS, **changes):
        samples, scoring = trees(6, seed=20) if samples is None else samples, Scoring("sgd", batch_size=2, **changes)
        return influence_scores([Checkpoint("40", model, 0.1)], samples, subtasks, losses, scoring)

    def scaled(self, rows, place, factor):
        """answer_losses with the loss of one of these rows times a factor, wherever its batch begins."""

        def losses(model, batch):
            factors = torch.tensor([factor if each is rows[place] else 1.0 for each in batch])
            return answer_losses(model, batch) * factors

        return losses

    def test_an_empty_subtask_is_named(self, model):
        with pytest.raises(DataError, match="subtask harmless: the validation subtask is empty"):
            self.score(model, subtasks={"helpful": trees(2), "harmless": []})

    def test_a_gradient_that_is_none_names_its_sample(self, model):
        samples = trees(6, seed=20)
        with pytest.raises(DataError, match="^sample 3, checkpoint 40: gradients of 1 samples are not finite"):
            self.score(model, self.scaled(samples, 3, math.nan), samples)
        with pytest.raises(DataError, match="^subtask helpful, sample 4, checkpoint 40"):
            self.score(model, self.scaled(SUBTASKS["helpful"], 4, math.nan))

    def test_a_sample_without_gradient_scores_zero_and_is_counted(self, points):
        samples = trees(6, seed=20)
        for direction in (
            "sgd",
            "printed",
        ):  # under Adam the moments alone would still point somewhere: not the sample's doing
            scoring = Scoring(direction, batch_size=4, dimensions=(EXACT, 16))
            losses = self.scaled(samples, 2, 0.0)
            found = influence_scores(points, samples, SUBTASKS, losses, scoring)
            assert found.zero == {2: ("2", "4")}
            for scores in found.scores.values():
                assert (scores[2] == 0).all() and (scores[[0, 1, 3, 4, 5]] != 0).all()

    def test_a_subtask_whose_gradients_cancel_is_named(self, model):
        rows = [SUBTASKS["helpful"][0], Tree(*SUBTASKS["helpful"][0])]
        with pytest.raises(DataError, match="subtask opposed, checkpoint 40: the mean validation gradient is zero"):
            self.score(model, self.scaled(rows, 1, -1.0), subtasks={"opposed": rows})

    def test_nothing_to_score_with(self, model):
        with pytest.raises(DataError, match="no samples"):
            self.score(model, samples=[])
        with pytest.raises(DataError, match="no validation subtask"):
            self.score(model, subtasks={})
        with pytest.raises(DataError, match="no checkpoints"):
            influence_scores([], trees(1), SUBTASKS, answer_losses, Scoring())
        with pytest.raises(SettingsError, match="gradients, cosines"):
            self.score(model, average="median")
        with pytest.raises(SettingsError, match="sgd, printed, adam, less"):
            influence_scores([], trees(1), SUBTASKS, answer_losses, Scoring("momentum"))
        with pytest.raises(SettingsError, match="at least one number"):
            self.score(model, dimensions=())
