"""LoRA adapters: put on by peft, their own tensors the parameters, and solved on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ihvp.errors import InvalidAdapter, PickleRefused, UnknownParameters, WeightsMismatch
from tests.pretrained.conftest import Place, Running
from tests.pretrained.models import Saved

TARGETS = {"distilbert": ["q_lin", "v_lin"], "gpt2": ["c_attn"], "vit": ["q_proj"]}
HEADS = {"distilbert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "vit": None}


def adapt(saved: Saved, folder: Path, **options: Any) -> Any:
    """Trains an adapter for a few steps, saves it, and gives the model with it as peft reads it again."""
    torch.manual_seed(0)
    kind = saved.folder.name
    base = type(saved.model).from_pretrained(saved.folder)
    heads = {"modules_to_save": ["classifier"]} if kind == "vit" else {}
    wanted = LoraConfig(task_type=HEADS[kind], r=2, target_modules=TARGETS[kind], **heads, **options)
    model = get_peft_model(base, wanted)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    inputs = {n: t.float() if t.is_floating_point() else t for n, t in saved.inputs.items()}
    for _ in range(5):
        optimizer.zero_grad()
        model(**inputs, labels=saved.labels).loss.backward()
        optimizer.step()
    model.save_pretrained(str(folder))
    again = type(saved.model).from_pretrained(saved.folder)
    return PeftModel.from_pretrained(again, str(folder), is_trainable=True).double().eval()


def loss_and_product(saved: Saved, model: Any, vector: Tensor) -> tuple[float, Tensor]:
    """Of peft's model, in the order of the names in the adapter's file."""
    named = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    parameters = [named[name] for name in sorted(named)]
    with sdpa_kernel(SDPBackend.MATH):
        loss = model(**saved.inputs, labels=saved.labels).loss
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        product = torch.autograd.grad(torch.cat([g.reshape(-1) for g in gradient]) @ vector, parameters)
    return float(loss), torch.cat([part.reshape(-1) for part in product])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("distilbert", {}),
        ("gpt2", {"bias": "lora_only", "use_rslora": True}),
        ("vit", {"rank_pattern": {"q_proj": 3}}),
    ],
)
def test_an_adapters_parameters_loss_and_products_are_pefts(
    place: Place, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    saved, folder = place.saved(kind), place.root / f"adapter-of-{kind}"
    model = adapt(saved, folder, **options)
    spec = saved.spec(parameters={"adapter": f"file://{folder}"})
    inspected = place.inspect(spec)
    loaded = place.load(inspected.spec)
    stored = load_file(folder / "adapter_model.safetensors")
    told = [(entry.name, tuple(entry.shape)) for entry in inspected.layout]
    assert told == loaded.layout == [(name, tuple(stored[name].shape)) for name in sorted(stored)]
    vector = torch.randn(loaded.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss, expected = loss_and_product(saved, model, vector)
    close = 1e-6 if kind == "gpt2" else 1e-12
    assert loaded.problem.mean_loss == pytest.approx(loss, rel=close)
    product = loaded.problem.hessian(1, 1)(vector[None])[0]
    assert float((product - expected).norm() / expected.norm()) < close


@pytest.fixture
def adapter(place: Place, tmp_path: Path) -> Path:
    """A copy of an adapter that a test may damage."""
    source = place.root / "adapter-to-copy"
    if not source.exists():
        adapt(place.saved("distilbert"), source)
    folder = place.root / f"adapter-{tmp_path.name}"
    shutil.copytree(source, folder)
    return folder


def test_a_job_on_an_adapter_is_certified_and_its_answer_is_the_dense_one(
    place: Place, running: Running, adapter: Path
) -> None:
    saved = place.saved("distilbert")
    spec = saved.spec(parameters={"adapter": f"file://{adapter}"})
    points = saved.data()
    job = running.run(
        model=spec,
        rhs={"gradient_of": {"inputs": points["inputs"], "targets": points["targets"], "index": [0, 3]}},
        curvature="ggn",
        hessian_perturbation=0.1,
        influence={"on": "training"},
    )
    result = running.get(job, "result")
    assert [entry["status"] for entry in result["info"]["certificate"]] == ["converged"] * 2
    loaded = place.load(job.request.model.spec)
    p = loaded.num_params
    matrix = loaded.problem_for("ggn").hessian(p, p)(torch.eye(p, dtype=torch.float64))
    model = (
        PeftModel.from_pretrained(type(saved.model).from_pretrained(saved.folder), str(adapter), is_trainable=True)
        .double()
        .eval()
    )
    named = {n.replace(".modules_to_save.default", "").replace(".default", ""): q for n, q in model.named_parameters()}
    chosen = [named[entry] for entry, _ in loaded.layout]
    rows = []
    for row in (0, 3):
        loss = model(**{n: t[row : row + 1] for n, t in saved.inputs.items()}, labels=saved.labels[row : row + 1]).loss
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, chosen)]))
    b = torch.stack(rows)
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(p, dtype=torch.float64), b.T).T
    torch.testing.assert_close(torch.tensor(result["x"], dtype=torch.float64), expected, rtol=1e-6, atol=1e-8)
    top = running.get(job, "influence")["top"]
    assert top[0]["helpful"][0]["index"] == 0, "a point helps itself most"


def test_patterns_choose_among_the_adapters_tensors(place: Place, adapter: Path) -> None:
    saved = place.saved("distilbert")
    spec = saved.spec(parameters={"adapter": f"file://{adapter}", "include": ["*lora_A*"]})
    names = [name for name, _ in place.load(spec).layout]
    assert len(names) == 2
    assert all("lora_A" in name for name in names)
    with pytest.raises(UnknownParameters):
        place.inspect(saved.spec(parameters={"adapter": f"file://{adapter}", "include": ["distilbert.*"]}))


def test_an_adapter_for_another_model(place: Place, adapter: Path) -> None:
    spec = place.saved("bert").spec(parameters={"adapter": f"file://{adapter}"})
    with pytest.raises(InvalidAdapter, match="belongs to another model"):
        place.load(spec)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "LORA"),
        ({"use_dora": True}, "no Hessian"),
        ({"megatron_config": {"a": 1}}, "names a module to import"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"rank_pattern": {"(a+)+$": 2}}, "must be plain"),
    ],
)
def test_adapters_that_are_not_offered(place: Place, adapter: Path, changes: dict[str, Any], says: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InvalidAdapter) as raised:
        place.inspect(place.saved("distilbert").spec(parameters={"adapter": f"file://{adapter}"}))
    assert says in str(raised.value)


def test_an_adapter_whose_config_and_weights_disagree(place: Place, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))
    with pytest.raises(WeightsMismatch, match="instead of"):
        place.load(place.saved("distilbert").spec(parameters={"adapter": f"file://{adapter}"}))


def test_a_pickled_adapter(place: Place, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(PickleRefused):
        place.inspect(place.saved("distilbert").spec(parameters={"adapter": f"file://{adapter}"}))
