"""Training runs on a small collection: stop and resume, two processes, refusals, and what a model folder is."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from quadrieve import Embedder, checkpoint, find_task
from quadrieve.errors import InputError, StoreError
from quadrieve_train import MultiTaskTrainer, Recipe, SelfPacedSchedule, mine, pipeline, read_collection
from quadrieve_train.dev import DevSet
from quadrieve_train.encoder import BiEncoder
from quadrieve_train.errors import DivergedError, StoppedError
from quadrieve_train.losses import Temperature
from quadrieve_train.monitors import FlatEmbeddingsWarning, ForgettingWarning, InterferenceWarning, RewardHackingWarning
from quadrieve_train.rows import as_row, write_rows
from quadrieve_train.trainer import training_arguments


@pytest.fixture
def data(tmp_path, collection_folder):
    """The collection, and rows of two tasks of it that carry rewards."""
    for task in ("qa", "tool"):
        rows = mine(read_collection(collection_folder), task, method="bm25", keep=3, margin=float("inf"))
        rewarded = [
            replace(row, rewards=tuple(1.0 / (1 + i) for i in range(len(row.candidates))), rewarded_by="smollm2@x rank")
            for row in map(as_row, rows)
        ]
        write_rows(rewarded, tmp_path / f"{task}.jsonl")
    return tmp_path


@pytest.fixture
def recipe_of(tiny_encoder):
    """Makes a recipe for `data` with some values changed."""

    def make(**changes):
        losses = {"graded": 1.0, "contrastive": 0.5}
        return Recipe.from_dict(
            {
                "model": str(tiny_encoder),
                "tasks": {
                    "qa": {"sources": ["qa.jsonl"], "losses": losses, "dev": "farm"},
                    "tool": {"sources": ["tool.jsonl"], "losses": losses, "dev": "farm"},
                },
                "candidates": 3,
                "query_tokens": 32,
                "key_tokens": 32,
                "steps": 4,
                "batch_size": 4,
                "learning_rate": 1e-4,
                "warmup": 0.0,
                "tau": 0.05,
                "precision": "float32",
                "trainer": {"report_to": []},
                **changes,
            }
        )

    return make


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_stopped_run_that_goes_on_equals_one_that_was_never_stopped_bit_for_bit(data, recipe_of, monkeypatch):
    recipe = recipe_of(save_steps=4, pace={"interval": 1}, learn_tau=True)
    whole = pipeline.train(recipe, data, data / "whole", use_cpu=True)

    update, calls = SelfPacedSchedule.update, []

    def update_and_press_ctrl_c(self, losses):
        calls.append(losses)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        update(self, losses)

    with monkeypatch.context() as patched:
        patched.setattr(SelfPacedSchedule, "update", update_and_press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(recipe, data, data / "halves", use_cpu=True)
    assert pipeline.last_checkpoint(data / "halves.work" / "checkpoints").name == "checkpoint-2"
    assert not (data / "halves").exists()
    resumed = pipeline.train(recipe, data, data / "halves", use_cpu=True)
    first, second = weights(whole.folder), weights(resumed.folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.before == whole.before
    assert resumed.after == whole.after


def test_a_task_may_have_its_negatives_mined_in_its_own_way(data, recipe_of):
    tasks = {
        task: {"sources": ["farm"], "losses": {"contrastive": 1.0}, "labelled": 0, "mining": mining}
        for task, mining in (("qa", None), ("tool", {"method": "dense", "keep": 1, "margin": "inf"}))
    }
    recipe = recipe_of(tasks=tasks, mining={"method": "dense", "keep": 3, "margin": "inf"})
    rows, _ = pipeline.prepare(recipe, data, data / "work")
    assert max(map(len, rows["qa"]["neg"])) == 3
    assert max(map(len, rows["tool"]["neg"])) == 1


def test_rows_may_be_labelled_of_one_source_and_not_of_another(data, recipe_of, lm):
    shutil.copytree(data / "farm", data / "barn")
    sources = {"sources": ["farm", "barn"], "labelled": {"barn": 2}}
    tasks = {"qa": {**sources, "losses": {"kl": 1.0, "contrastive": 1.0}}}
    recipe = recipe_of(tasks=tasks, mining={"method": "bm25", "margin": "inf"}, rewards={"kind": "likelihood"})
    rows, _ = pipeline.prepare(recipe, data, data / "work", lm=lm)
    assert [row["source"] for row in rows["qa"] if row["rewards"]] == ["barn", "barn"]


def test_runs_that_name_the_same_folder_of_mined_rows_mine_once(data, recipe_of, monkeypatch):
    tasks = {"qa": {"sources": ["farm"], "losses": {"contrastive": 1.0}, "labelled": 0}}
    recipe = recipe_of(tasks=tasks, mining={"method": "bm25", "among": "positives", "margin": "inf"})
    first, _ = pipeline.prepare(recipe, data, data / "first", mined=data / "mined")
    monkeypatch.setattr("quadrieve_train.mining._row", lambda *_: pytest.fail("what was mined was mined again"))
    second, _ = pipeline.prepare(replace(recipe, seed=2), data, data / "second", mined=data / "mined")
    assert list(second["qa"]) == list(first["qa"])
    wider = replace(recipe, mining=replace(recipe.mining, among="corpus"))
    with pytest.raises(StoreError, match="other data or with other options"):
        pipeline.prepare(wider, data, data / "third", mined=data / "mined")


COMMANDS = """
import sys
from quadrieve_train.cli import main

data, *names = sys.argv[1:]
for name in names:
    sys.argv = ["quadrieve", "train", f"{data}/{name}.yaml", "--data", data, "--out", f"{data}/{name}", "--cpu"]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
assert "chromadb" not in sys.modules, "training needs no chromadb"
"""


def train_on_two_processes(recipes, data):
    """Run `quadrieve train` for each recipe; importing torch is what takes time, so processes are launched once."""
    script = data / "commands.py"
    script.write_text(COMMANDS)
    for name, recipe in recipes.items():
        (data / f"{name}.yaml").write_text(recipe.to_yaml())
    # `accelerate launch --cpu` starts a single process without MPI; --multi_gpu starts them all, and the CPU is ours.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", script, data, *recipes]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The model is in") == len(recipes)  # the first process speaks for both


def test_two_processes_learn_what_one_learns_from_the_same_global_batch(data, recipe_of, tiny_encoder):
    # One step of plain gradient descent at rate 1: the change of the weights is the gradient.
    common = {
        "steps": 1,
        "learning_rate": 1.0,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "dropout": 0.0,
        "group_tokens": 64,
        "log_steps": 1,
        "trainer": {"optim": "sgd", "report_to": []},
        "save_steps": 1,
    }
    pipeline.train(recipe_of(batch_size=8, **common), data, data / "one", use_cpu=True)
    two = {"plain": recipe_of(batch_size=4, **common), "cached": recipe_of(batch_size=4, grad_cache=True, **common)}
    train_on_two_processes(two, data)
    one, start = weights(data / "one"), weights(tiny_encoder)
    assert max((one[name] - start[name]).abs().max().item() for name in one) > 1e-3
    for way in two:
        found = weights(data / way)
        for name in one:
            assert torch.allclose(one[name], found[name], atol=1e-5, rtol=1e-5), (way, name)
        assert losses(data, way) == pytest.approx(losses(data, "one"), abs=1e-5)


def losses(data, out):
    saved = pipeline.last_checkpoint(data / f"{out}.work" / "checkpoints")
    history = json.loads((saved / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


def test_accumulated_micro_batches_without_shared_negatives_equal_one_batch(data, recipe_of):
    # chat has no in-batch negatives, so micro-batches and the whole batch have the same loss
    rows = [replace(as_row(r), task="chat") for r in pipeline.read_rows(data / "qa.jsonl")]
    write_rows(rows, data / "chat.jsonl")
    tasks = {"chat": {"sources": ["chat.jsonl"], "losses": {"graded": 1.0}}}
    common = {"tasks": tasks, "steps": 1, "dropout": 0.0, "learning_rate": 1.0, "max_grad_norm": 0.0}
    common |= {"weight_decay": 0.0, "trainer": {"optim": "sgd", "report_to": []}}
    whole = pipeline.train(recipe_of(batch_size=8, **common), data, data / "whole", use_cpu=True)
    parts = pipeline.train(recipe_of(batch_size=4, accumulation=2, **common), data, data / "parts", use_cpu=True)
    first, second = weights(whole.folder), weights(parts.folder)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_the_model_folder_opens_everywhere_with_its_prefixes_and_says_how_it_came_to_be(data, recipe_of, monkeypatch):
    monkeypatch.chdir(data)
    result = pipeline.train(recipe_of(matryoshka=[32, 8], trainer={}), data, data / "model", use_cpu=True)
    assert list((data / "model.work" / "checkpoints" / "runs").glob("events.*"))
    assert not (data / "runs").exists()  # where TensorBoard writes if it is not told
    embedder = Embedder.load(result.folder, dtype="float32")
    view = embedder.view("qa")
    assert view.explain("q") == "Represent this query for retrieving relevant documents: q"
    texts = ["Who makes honey?", "Where is silk from?"]
    model = SentenceTransformer(str(result.folder), device="cpu")
    assert np.allclose(view.embed_queries(texts), model.encode(texts, prompt_name="qa_query"), atol=1e-5)
    training = json.loads((result.folder / "training.json").read_text())
    assert training["fingerprints"]["qa"] == view.fingerprint
    assert training["data"]["qa"] == {"rows": 10, "rewarded": 10}
    assert training["figures"]["after"] == result.after
    assert training["rewards"]["qa"]["flat_share"] == 0.0
    card = (result.folder / "README.md").read_text()
    assert view.fingerprint in card
    assert "1 graded, 0.5 contrastive" in card
    assert "| qa | 10 | 0% | 0% | 0.00 |" in card  # the made-up rewards order the positive first
    assert Recipe.load(result.folder / "recipe.yaml").matryoshka == (32, 8)
    assert set(result.before) == {"qa", "tool"}


def test_one_task_may_go_without_its_prefixes_and_a_batch_may_be_of_one_source(data, recipe_of):
    recipe = recipe_of(batching="source")
    tasks = {name: replace(task, prefixes=name != "qa") for name, task in recipe.tasks.items()}
    write_rows(
        [replace(as_row(row), task="tool") for row in pipeline.read_rows(data / "qa.jsonl")], data / "more.jsonl"
    )
    tasks["tool"] = replace(tasks["tool"], sources=("tool.jsonl", "more.jsonl"))
    result = pipeline.train(replace(recipe, tasks=tasks), data, data / "model", use_cpu=True)
    embedder = Embedder.load(result.folder)
    assert embedder.view("qa").explain("q") == "q"
    assert embedder.view("tool").explain("q") == find_task("tool").query_prefix + "q"
    rows, _ = pipeline.prepare(replace(recipe, tasks=tasks), data, data / "model.work")
    assert rows["tool"]["source"] == ["tool.jsonl"] * 10 + ["more.jsonl"] * 10


def test_a_loss_that_is_no_number_saves_and_names_the_batch(data, recipe_of):
    recipe = recipe_of(learning_rate=1e30, max_grad_norm=0.0, trainer={"optim": "sgd", "report_to": []})
    with pytest.raises(DivergedError, match="step 2 is not finite"):
        pipeline.train(recipe, data, data / "model", use_cpu=True)
    checkpoints = data / "model.work" / "checkpoints"
    named = json.loads((checkpoints / "diverged-batch-0.json").read_text())
    assert len(named["rows"]) == 4
    assert all(row.startswith(("qa:farm/q", "tool:farm/q")) for row in named["rows"])
    assert pipeline.last_checkpoint(checkpoints).name == "checkpoint-1"


def test_a_monitor_that_may_stop_the_run_does_and_saves(data, recipe_of):
    # Different texts of the collection are alike enough for a low threshold.
    recipe = recipe_of(monitors={"flat_embeddings": {"cosine": 0.01}}, stop_on=["flat_embeddings"])
    with pytest.warns(FlatEmbeddingsWarning, match="mean cosine"), pytest.raises(StoppedError, match="flat_embeddings"):
        pipeline.train(recipe, data, data / "model", use_cpu=True)
    assert pipeline.last_checkpoint(data / "model.work" / "checkpoints").name == "checkpoint-1"


def test_a_run_that_unlearns_what_it_knew_is_warned_of_forgetting(data, recipe_of):
    with pytest.warns(ForgettingWarning, match="NDCG fell from"):
        pipeline.train(recipe_of(learning_rate=0.3), data, data / "model", use_cpu=True)


def test_tasks_that_want_opposite_things_of_the_same_texts_are_warned_of_interference(data, recipe_of):
    rows = [as_row(row) for row in pipeline.read_rows(data / "qa.jsonl")]
    backwards = [replace(row, task="tool", rewards=tuple(-reward for reward in row.rewards)) for row in rows]
    write_rows(backwards, data / "tool.jsonl")
    tasks = {task: {"sources": [f"{task}.jsonl"], "dev": "farm"} for task in ("qa", "tool")}
    with pytest.warns(InterferenceWarning, match="tool/qa: gradients have a cosine of -"):
        pipeline.train(recipe_of(tasks=tasks, prefixes="none", tau_reward=0.1), data, data / "model", use_cpu=True)


def test_a_run_whose_rewards_rise_while_answers_get_worse_is_warned_of_reward_hacking(data, recipe_of, tiny_encoder):
    rows = [as_row(row) for row in pipeline.read_rows(data / "qa.jsonl")]
    hacked = tuple(replace(row, qualities=tuple(1 - reward for reward in row.rewards)) for row in rows)
    dev = replace(DevSet.from_collection(read_collection(data / "farm"), "qa"), rewarded=hacked)
    tasks = {"qa": {"sources": ["qa.jsonl"], "losses": {"graded": 1.0}}}
    recipe = recipe_of(tasks=tasks, steps=12, batch_size=8, learning_rate=5e-3, dropout=0.0, tau_reward=0.1)
    start = checkpoint.find(tiny_encoder)
    trainer = MultiTaskTrainer(
        BiEncoder.load(start, Temperature(recipe.tau), dropout=recipe.dropout),
        AutoTokenizer.from_pretrained(start.folder),
        {"qa": pipeline.read_rows(data / "qa.jsonl")},
        recipe,
        training_arguments(recipe, data / "checkpoints", use_cpu=True),
        dev={"qa": dev},
    )
    before = trainer.evaluate()
    trainer.train()
    with pytest.warns(RewardHackingWarning, match="the reward rose by"):
        after = trainer.evaluate()
    assert after["eval_qa_reward"] > before["eval_qa_reward"] + 0.05
    assert after["eval_qa_quality"] < before["eval_qa_quality"]


def drift(model, start, task):
    texts = ["Bees make honey.", "Cows give milk.", "Hens lay eggs."]
    now, before = (Embedder.load(folder).view(task).embed_keys(texts) for folder in (model, start))
    return float(1 - (now * before).sum(axis=1).mean())


@pytest.mark.parametrize("grad_cache", [False, True])
def test_a_task_with_an_anchor_stays_near_where_it_began_and_the_others_go_on(
    data, recipe_of, tiny_encoder, grad_cache
):
    def run(name, **anchor):
        tasks = {
            "qa": {"sources": ["qa.jsonl"], "losses": {"contrastive": 1.0}, "prefixes": False, **anchor},
            "tool": {"sources": ["tool.jsonl"], "losses": {"contrastive": 1.0}},
        }
        recipe = recipe_of(tasks=tasks, steps=12, learning_rate=3e-3, dropout=0.0, grad_cache=grad_cache)
        return pipeline.train(recipe, data, data / name, use_cpu=True).folder

    free, anchored = run("free"), run("anchored", anchor=20.0)
    assert drift(anchored, tiny_encoder, "qa") < 0.5 * drift(free, tiny_encoder, "qa")
    assert drift(anchored, tiny_encoder, "tool") > 0.01


def test_what_an_anchor_was_trained_on_counts_as_read(data, recipe_of):
    taught = pipeline.train(recipe_of(steps=1), data, data / "taught", use_cpu=True).folder
    tasks = {"qa": {"sources": ["mute.jsonl"], "losses": {"contrastive": 1.0}, "anchor": 1.0}}
    rows = [as_row(row) for row in pipeline.read_rows(data / "qa.jsonl")]
    write_rows([replace(row, rewards=(), rewarded_by="", answers=()) for row in rows], data / "mute.jsonl")
    held = recipe_of(tasks=tasks, steps=1, anchor_model=str(taught))
    read = json.loads((pipeline.train(held, data, data / "held", use_cpu=True).folder / "training.json").read_text())
    assert read["sources"] == ["mute.jsonl", "qa.jsonl", "tool.jsonl"]


def test_an_anchor_is_a_model_that_reads_texts_alike(data, recipe_of):
    tasks = {"qa": {"sources": ["qa.jsonl"], "losses": {"contrastive": 1.0}, "anchor": 1.0}}
    with pytest.raises(InputError, match=r"anchor_model 'minilm' must have .* dimensions \(32\) of .*it has 384"):
        pipeline.train(recipe_of(tasks=tasks, anchor_model="minilm"), data, data / "refused", use_cpu=True)
    pinned = recipe_of(tasks=tasks, anchor_model="minilm", anchor_revision="v1")
    with pytest.raises(InputError, match="revision='v1' goes with a hub id"):
        pipeline.train(pinned, data, data / "refused", use_cpu=True)


@pytest.mark.parametrize("batching", ["heterogeneous", "mixed"])
def test_other_ways_of_batching_train_too(data, recipe_of, batching):
    pipeline.train(
        recipe_of(batching=batching, pace={"by": "loss", "interval": 1}), data, data / batching, use_cpu=True
    )
    assert Embedder.load(data / batching).view("tool").dim == 32


def test_what_does_not_fit_is_refused(data, recipe_of, monkeypatch):
    def run(recipe):
        pipeline.train(recipe, data, data / "refused", work=data / f"work-{abs(hash(recipe.to_yaml()))}", use_cpu=True)

    bare = [replace(as_row(row), rewards=(), rewarded_by="") for row in pipeline.read_rows(data / "qa.jsonl")]
    write_rows(bare, data / "bare.jsonl")
    write_rows([replace(row, answers=()) for row in bare], data / "mute.jsonl")
    unrewarded = {"tasks": {"qa": {"sources": ["bare.jsonl"], "losses": {"graded": 1.0}}}}
    with pytest.raises(InputError, match=r"no row of bare\.jsonl has what its losses need"):
        run(recipe_of(**unrewarded))
    silent = {"tasks": {"qa": {"sources": ["mute.jsonl"], "labelled": None}}}
    with pytest.raises(InputError, match="has no answers"):
        run(recipe_of(**silent))
    with pytest.raises(InputError, match=r"rewards of 'smollm2@x rank'.*language model is 'other/llm'"):
        run(recipe_of(lm="other/llm"))
    tasks = {"qa": {"sources": ["qa.jsonl"], "weight": 1.0}, "tool": {"sources": ["tool.jsonl"]}}
    with pytest.raises(InputError, match="Give every task a weight, or none"):
        run(recipe_of(tasks=tasks))
    with pytest.raises(InputError, match="unknown threshold"):
        run(recipe_of(monitors={"forgetting": {"patience": 3}}))
    with monkeypatch.context() as full:
        full.setattr(pipeline.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000_000})())
        with pytest.raises(StoreError, match=r"0\.0 GB free"):
            run(recipe_of())
    with monkeypatch.context() as launched:  # what `accelerate launch --num_processes 2 --cpu` leaves its one process
        launched.setenv("ACCELERATE_USE_CPU", "True")
        launched.setenv("MASTER_ADDR", "127.0.0.1")
        with pytest.raises(InputError, match="starts one process however many are asked for"):
            run(recipe_of())
    recipe = recipe_of(steps=1)
    pipeline.train(recipe, data, data / "done", use_cpu=True)
    with pytest.raises(InputError, match="holds a run of another recipe"):
        pipeline.train(recipe_of(steps=2), data, data / "done", use_cpu=True)


def test_importing_the_package_imports_no_torch():
    code = "import sys, quadrieve_train; print([m for m in ('torch', 'transformers', 'chromadb') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
