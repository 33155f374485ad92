"""Trainers, precision and loops of other libraries take the steps that a plain loop takes."""

import functools
import importlib.util
import subprocess
import sys
import types
import warnings

import pytest
import torch
import usable_weights
from sklearn.datasets import load_digits
from torch import nn

import celo.torch
from celo._errors import CeloError

STEPS, BATCH = 60, 32
WEIGHTS = "celo-1"  # element by element: orthogonalised steps magnify rounding
SCHEDULED = {  # options of those that read the loss
    "Celo": {"weights": WEIGHTS},
    "CeloAdam": {"weights": usable_weights.celo_adam(), "lr": 5.0},
    "VeLO": {"weights": usable_weights.velo()},
}
OTHERS = {
    "CeloRule": {"weights": WEIGHTS, "lr": 2.0},
    "Celo2": {"weights": usable_weights.celo2(), "lr": 0.01, "orthogonalize": False},
    "Celo2Base": {"weights": usable_weights.celo2(), "lr": 0.01},
}
OPTIONS = SCHEDULED | OTHERS
ALL = ["Celo", *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS if name != "Celo")]


@pytest.fixture(scope="module")
def data():
    digits = load_digits()
    return torch.tensor(digits.data / 16.0).float(), torch.tensor(digits.target)


def new_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def batches(data, parts=1):
    """STEPS batches, or so many lists of parts of one."""
    x, y = data
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        index = torch.randint(0, len(y), (BATCH,), generator=draw)
        whole = list(zip(x[index].chunk(parts), y[index].chunk(parts), strict=True))
        yield whole if parts > 1 else whole[0]


def made(name, params):
    horizon = {"num_steps": STEPS} if name in SCHEDULED else {}
    return getattr(celo.torch, name)(params, **horizon, **OPTIONS[name])


def plain(data, clip=None, name="Celo"):
    """(model, losses) of the loop that others are held against."""
    model, losses = new_model(), []
    optimizer = made(name, model.parameters())
    for x, y in batches(data):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return model, losses


ROUNDING = 1e-4  # of sums taken in another order


def apart(model, other):
    """How far two models are apart, as a part of how far they have moved."""
    far, moved = 0.0, 0.0
    for a, b, start in zip(model.parameters(), other.parameters(), new_model().parameters(), strict=True):
        far += (a - b).square().sum().item()
        moved += (b - start).square().sum().item()
    return (far / moved) ** 0.5


@pytest.fixture(scope="module")
def references(data):
    """A function: name of an optimizer -> the model that the plain loop has trained by it."""

    @functools.cache
    def trained(name):
        model, losses = plain(data, name=name)
        assert losses[-1] < 0.6 * losses[0]
        return model

    return trained


@pytest.fixture(scope="module")
def reference(references):
    return references("Celo")


# ------------------------------------------------------------------------------------------- plain PyTorch


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_the_batch(data, references, name, parts):
    model = new_model()
    optimizer = made(name, model.parameters())
    for batch in batches(data, parts):
        optimizer.zero_grad()
        for x, y in batch:
            loss = nn.functional.cross_entropy(model(x), y)
            (loss / parts).backward()
            optimizer.report_loss(loss)
        optimizer.step()
    assert apart(model, references(name)) < ROUNDING


def test_clipped_gradients_still_train(data, reference):
    model, losses = plain(data, clip=0.5)
    assert losses[-1] < 0.6 * losses[0]
    assert apart(model, reference) > 2 * ROUNDING, "nothing was clipped"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scaled", [False, True])
def test_mixed_precision_trains(data, name, scaled):
    model, losses = new_model(), []
    optimizer = made(name, model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    for x, y in batches(data):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer, loss=loss)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_step_that_the_scaler_skips_moves_neither_parameters_nor_the_schedule(data):
    model = new_model()
    optimizer = celo.torch.Celo(model.parameters(), num_steps=STEPS, weights=WEIGHTS)
    scaler = torch.amp.GradScaler("cpu")
    x, y = next(batches(data))
    loss = nn.functional.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    model[0].weight.grad[0, 0] = torch.inf
    scaler.step(optimizer, loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), new_model().parameters(), strict=True))
    assert optimizer.param_groups[0]["schedule_clock"] == 0


# ------------------------------------------------------------------------------------------- trainers


def test_no_trainer_is_imported_with_the_library():
    code = (
        "import sys, celo.torch; "
        "names = {'jax', 'timm', 'transformers', 'axolotl', 'torch.distributed.tensor'}; "
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Cello'"):
        celo.torch.Cello  # noqa: B018


@pytest.fixture
def axolotl(monkeypatch):
    """Axolotl's `BasePlugin`, and the Trainer's part that a plugin sees."""
    base = types.ModuleType("axolotl.integrations.base")
    base.BasePlugin = type("BasePlugin", (), {"pre_model_load": lambda self, cfg: None})
    for name in ("axolotl", "axolotl.integrations"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    celo.torch.axolotl_plugin.cache_clear()
    yield base.BasePlugin
    celo.torch.axolotl_plugin.cache_clear()


class StubTrainer:
    """Two micro-batches a step, as transformers' Trainer takes them."""

    current_gradient_accumulation_steps = 2
    args = types.SimpleNamespace(max_steps=-1)

    def __init__(self, model):
        self.model = model

    def training_step(self, model, batch):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1]) / 2
        loss.backward()
        return loss.detach()


@pytest.mark.parametrize("name", ALL[: len(SCHEDULED)])
def test_axolotl_trains_by_its_plugin(axolotl, data, references, name):
    plugin = celo.torch.AxolotlPlugin()
    assert isinstance(plugin, axolotl)
    model = new_model()
    trainer = StubTrainer(model)
    optimizer = plugin.create_optimizer(
        types.SimpleNamespace(optim_args={"nonfinite": "repair", "optimizer": name, **OPTIONS[name]}), trainer
    )
    scheduler = plugin.create_lr_scheduler(None, trainer, optimizer, STEPS)
    assert optimizer.param_groups[0]["schedule_num_steps"] == STEPS
    for batch in batches(data, 2):
        optimizer.zero_grad()
        for part in batch:
            trainer.training_step(model, part)
        optimizer.step()
        scheduler.step()
    assert type(optimizer).__name__ == name
    assert optimizer.param_groups[0]["lr"] == OPTIONS[name].get("lr", 1)
    assert apart(model, references(name)) < ROUNDING


def test_axolotl_sends_others_to_adamw_where_it_is_asked_to(axolotl):
    options = types.SimpleNamespace(optim_args={"adamw": {"lr": 5e-4}, "weight_decay": 1e-5})
    optimizer = celo.torch.AxolotlPlugin().create_optimizer(options, StubTrainer(new_model()))
    assert {g["label"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups} == {
        "matrix": (1.0, 1e-5),
        "vector": (5e-4, 0.0),
    }


@pytest.fixture
def quiet():
    """Other libraries' own warnings are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Rows(torch.utils.data.Dataset):
    """The batches of the plain loop, row by row in their order."""

    def __init__(self, data, keys=None):
        rows = [(x, y) for batch in batches(data) for x, y in zip(*batch, strict=True)]
        self.rows = rows if keys is None else [dict(zip(keys, row, strict=True)) for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.fixture
def transformers(quiet):
    return pytest.importorskip("transformers")


class ForTrainer(nn.Module):
    """A model that returns its loss, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.net = new_model()

    def forward(self, x=None, labels=None):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_of(transformers, data, folder, optimizers=lambda model: (None, None), **arguments):
    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    parts = arguments.get("gradient_accumulation_steps", 1)
    options = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH // parts,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_strategy": "no",
    }
    args = transformers.TrainingArguments(output_dir=str(folder), **(options | arguments))
    model = ForTrainer()
    return InOrder(model, args, train_dataset=Rows(data, ("x", "labels")), optimizers=optimizers(model))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parts"), [("Celo", 1), *((name, 4) for name in SCHEDULED)])
def test_transformers_takes_the_steps_of_the_plain_loop(
    transformers, data, references, tmp_path, name, parts
):
    trainer = trainer_of(transformers, data, tmp_path, gradient_accumulation_steps=parts)
    celo.torch.attach(trainer, optimizer=name, **OPTIONS[name])
    trainer.train()
    assert type(trainer.optimizer.optimizer).__name__ == name
    assert trainer.optimizer.param_groups[0]["schedule_num_steps"] == STEPS
    assert trainer.optimizer.param_groups[0]["lr"] == OPTIONS[name].get("lr", 1)
    assert apart(trainer.model.net, references(name)) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_transformers_trains_with_those_that_read_no_loss(transformers, data, references, tmp_path, name):
    """They are handed to it, and follow its scheduler."""
    scheduler = {"lr_scheduler_type": "constant"}
    trainer = trainer_of(
        transformers,
        data,
        tmp_path,
        optimizers=lambda model: (made(name, model.parameters()), None),
        **scheduler,
    )
    trainer.train()
    assert apart(trainer.model.net, references(name)) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_those_that_read_no_loss_are_not_attached(name):
    trainer = types.SimpleNamespace(optimizer=None, optimizer_cls_and_kwargs=None)
    pytest.importorskip("transformers")
    with pytest.raises(CeloError, match=rf"{name} reads neither.*optimizers=\(optimizer, None\)"):
        celo.torch.attach(trainer, optimizer=name)
    with pytest.raises(CeloError, match="'Velo'; known, nearest first: Celo, VeLO, CeloAdam"):
        celo.torch.attach(trainer, optimizer="Velo")


@pytest.mark.slow
def test_transformers_resumes(transformers, data, reference, tmp_path):
    first = trainer_of(transformers, data, tmp_path, save_strategy="steps", save_steps=STEPS // 2)
    celo.torch.attach(first, weights=WEIGHTS)
    first.train()
    again = trainer_of(transformers, data, tmp_path)
    celo.torch.attach(again, weights=WEIGHTS)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert apart(again.model.net, reference) < 1e-5


@pytest.mark.slow
def test_transformers_sends_others_to_adamw_and_keeps_its_scheduler_where_it_is_asked_to(
    transformers, data, tmp_path
):
    trainer = trainer_of(transformers, data, tmp_path)
    celo.torch.attach(trainer, adamw={"lr": 2e-3}, keep_scheduler=True, weight_decay=1e-5)
    trainer.train()
    groups = {group["label"]: group for group in trainer.optimizer.param_groups}
    assert groups["matrix"]["initial_lr"] == 1
    assert groups["vector"]["initial_lr"] == 2e-3
    assert groups["matrix"]["lr"] == groups["vector"]["lr"] == 0  # the Trainer's own falls to zero
    assert groups["matrix"]["weight_decay"] == 1e-5


@pytest.mark.slow
def test_a_trainer_that_has_an_optimizer_is_refused(transformers, data, tmp_path):
    trainer = trainer_of(transformers, data, tmp_path)
    celo.torch.attach(trainer)
    with pytest.raises(CeloError, match="the trainer has an optimizer"):
        celo.torch.attach(trainer)


@pytest.mark.slow
def test_a_small_language_model_of_transformers_learns(transformers, tmp_path):
    torch.manual_seed(0)
    text = "the quick brown fox jumps over the lazy dog. " * 40
    ids = torch.tensor([ord(c) for c in text])
    rows = [{"input_ids": x, "labels": x} for x in ids[: len(ids) // 24 * 24].view(-1, 24)]
    config = transformers.GPT2Config(vocab_size=128, n_positions=24, n_embd=32, n_layer=2, n_head=2)
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(transformers.GPT2LMHeadModel(config), args, train_dataset=rows)
    celo.torch.attach(trainer, adamw={})
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]
    # What the schedule saw is the loss of a step, not of its half.
    means = trainer.optimizer.param_groups[0]["schedule_loss_means"]
    assert means.max() < 1.2 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parts"), [("Celo", 1), *((name, 2) for name in OPTIONS)])
def test_accelerate_takes_the_steps_of_the_plain_loop(quiet, data, references, name, parts):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
    model = new_model()
    optimizer = made(name, model.parameters())
    loader = torch.utils.data.DataLoader(Rows(data), batch_size=BATCH // parts)
    model, prepared, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.report_loss(loss)
            prepared.step()
            prepared.zero_grad()
    assert apart(model, references(name)) < ROUNDING


@pytest.mark.slow
def test_accelerate_passes_a_closure_on(quiet, data, reference):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = new_model()
    model, optimizer = accelerator.prepare(
        model, celo.torch.Celo(model.parameters(), num_steps=STEPS, weights=WEIGHTS)
    )
    for x, y in batches(data):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step(lambda loss=loss: loss)
    assert apart(model, reference) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_lightning_takes_the_steps_of_the_plain_loop(quiet, data, references, tmp_path, name):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = new_model()

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            assert self.trainer.estimated_stepping_batches == STEPS
            return made(name, self.parameters())

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(Rows(data), batch_size=BATCH))
    assert apart(module.net, references(name)) < 1e-5


@pytest.fixture
def timm(quiet):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("timm needs torchvision")
    return pytest.importorskip("timm")


@pytest.mark.slow
def test_timm_makes_the_optimizer_by_name(timm, data):
    celo.torch.register_timm()
    celo.torch.register_timm()  # twice does no harm
    model = new_model()
    optimizer = timm.optim.create_optimizer_v2(model, "celo", num_steps=STEPS, weight_decay=1e-5)
    assert isinstance(optimizer, celo.torch.Celo)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 1e-5]
    losses = []
    for x, y in batches(data):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_timm_knows_all_of_them(timm, name):
    celo.torch.register_timm()
    horizon = {"num_steps": STEPS} if name in SCHEDULED else {}
    optimizer = timm.optim.create_optimizer_v2(new_model(), name.lower(), **horizon, **OPTIONS[name])
    assert type(optimizer).__name__ == name


@pytest.mark.slow
def test_timm_makes_the_rule_alone_and_groups_of_ours(timm):
    celo.torch.register_timm()
    optimizer = timm.optim.create_optimizer_v2(
        new_model(), "celorule", lr=0.5, param_group_fn=celo.torch.param_groups
    )
    assert isinstance(optimizer, celo.torch.CeloRule)
    assert {g["label"]: (g["rule"], g["lr"]) for g in optimizer.param_groups} == {
        "matrix": ("learned", 0.5),
        "vector": ("adamw", 1e-3),
    }
