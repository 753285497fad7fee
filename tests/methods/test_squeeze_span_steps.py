"""Networks and whole training steps against traces of the reference, and the properties of a step."""

import pytest
import torch
from torch import Tensor, nn

from gankd.stages.schedule import cosine
from methods.squeeze_span.encoding import latent_encoding
from methods.squeeze_span.losses import Weights
from methods.squeeze_span.networks import Concatenated, ResNet18Encoder, SqueezeModule, Student, mlp, simsiam_heads
from methods.squeeze_span.pretraining import simsiam, squeeze_and_span, vicreg
from tests.methods.squeeze_span_fixtures import TinyBackbone, assert_state, fixture, load, part


def student_of(state: dict[str, Tensor], outputs: int) -> Student:
    backbone = TinyBackbone(state)
    layers = sum(name.startswith("projector") and value.dim() == 2 for name, value in state.items())
    width = backbone.feature_dim
    return load(Student(backbone, mlp(width, width, outputs, layers, last_bias=False)), state)


def squeeze_of(state: dict[str, Tensor]) -> SqueezeModule:
    widths = [value.shape[1] for name, value in state.items() if name.startswith("lateral") and name.endswith("weight")]
    outputs = state["to_repr.6.weight"].shape[0]
    return load(SqueezeModule(widths, len(state["lateral0.bias"]), outputs, 3), state)


def sgd(arrays: dict[str, Tensor], *modules: nn.Module) -> torch.optim.SGD:
    parameters = [p for module in modules for p in module.parameters()]
    defaults = {"momentum": 0.9, "weight_decay": 5e-4}
    momentum, decay = (float(arrays.get(name, torch.tensor(value))) for name, value in defaults.items())
    return torch.optim.SGD(parameters, float(arrays["lr"]), momentum=momentum, weight_decay=decay)


def test_squeeze_module_of_maps_and_of_pooled_maps() -> None:
    arrays = fixture("squeeze_net")
    net, maps = squeeze_of(part(arrays, "sd/")), [arrays[f"feat{i}"] for i in range(3)]
    torch.testing.assert_close(Concatenated()(maps), arrays["vanilla"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.eval()(maps), arrays["out_eval"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.eval()([each.mean((2, 3)) for each in maps]), arrays["out_eval"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.train()(maps), arrays["out_train"], rtol=1e-9, atol=1e-12)
    for name, value in part(arrays, "sd_after_train/").items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(net.eval()(maps), arrays["out_eval_after"], rtol=1e-9, atol=1e-12)


def test_squeeze_module_of_a_latent() -> None:
    arrays = fixture("squeeze_net_w")
    torch.testing.assert_close(squeeze_of(part(arrays, "sd/"))([arrays["w"]]), arrays["out_train"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["step_squeeze_span", "step_squeeze_only", "step_vanilla"])
def test_steps_of_squeeze_and_span(name: str) -> None:
    arrays = fixture(name)
    student = student_of(part(arrays, "student/0/"), arrays["z_student/0"].shape[1])
    trained = [student]
    squeeze: nn.Module = Concatenated()
    if part(arrays, "squeeze/0/"):
        squeeze = squeeze_of(part(arrays, "squeeze/0/"))
        trained.append(squeeze)
    optimizer = sgd(arrays, *trained)
    weights, alpha = Weights(*(float(arrays[each]) for each in ("lambda", "mu", "nu"))), float(arrays["alpha"])
    for step in range(int(arrays["steps"])):
        target = [arrays[f"feat{i}/{step}"] for i in range(3)]
        views = [arrays[f"real{i}/{step}"] for i in (1, 2) if f"real{i}/{step}" in arrays]
        terms, z = squeeze_and_span(student, squeeze, arrays[f"syn/{step}"], target, views, weights, alpha)
        total = torch.stack(list(terms.values())).sum()
        torch.testing.assert_close(z.detach(), arrays[f"z_student/{step}"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(total.detach(), arrays[f"total/{step}"], rtol=1e-9, atol=0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert_state(student, part(arrays, f"student/{step + 1}/"))
        if len(trained) > 1:
            assert_state(squeeze, part(arrays, f"squeeze/{step + 1}/"))


def test_a_step_of_vicreg() -> None:
    arrays = fixture("step_vicreg")
    state = part(arrays, "sd/0/")
    student = student_of(state, state["projector.6.weight"].shape[0])
    optimizer = sgd(arrays, student)
    terms, _ = vicreg(student, arrays["x1"], arrays["x2"], Weights(*arrays["weights"].tolist()))
    torch.testing.assert_close(terms["loss_vicreg"].detach(), arrays["loss"], rtol=1e-9, atol=0)
    terms["loss_vicreg"].backward()
    optimizer.step()
    assert_state(student, part(arrays, "sd/1/"))


def test_a_step_of_simsiam_with_its_two_rates() -> None:
    arrays = fixture("step_simsiam")

    def named(prefix: str) -> dict[str, Tensor]:
        return {name.replace("backbone.fc", "projector"): value for name, value in part(arrays, prefix).items()}

    state = named("sd/0/")
    backbone = TinyBackbone(state)
    outputs, hidden = state["predictor.3.weight"].shape
    student = load(Student(backbone, *simsiam_heads(backbone.feature_dim, outputs, 2, hidden)), state)
    student.projector[3].bias.requires_grad_(True)  # as the reference ends up with: only weight decay moves it
    rate = float(arrays["lr_init"])
    rest = [*backbone.parameters(), *student.projector.parameters()]
    rates = [rate * cosine(int(arrays["epoch"]), int(arrays["epochs"])), rate]
    torch.testing.assert_close(torch.tensor(rates, dtype=torch.float64), arrays["lr_groups"], rtol=1e-9, atol=0)
    groups = [{"params": rest, "lr": rates[0]}, {"params": list(student.predictor.parameters()), "lr": rates[1]}]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    terms, z = simsiam(student, arrays["x1"], arrays["x2"])
    torch.testing.assert_close(z.detach(), arrays["z1"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms["loss_simsiam"].detach(), arrays["loss"], rtol=1e-9, atol=1e-12)
    terms["loss_simsiam"].backward()
    optimizer.step()
    assert_state(student, named("sd/1/"), rtol=1e-8)


def test_a_step_of_latent_encoding() -> None:
    arrays = fixture("step_encode")
    state = part(arrays, "sd/0/")
    backbone = TinyBackbone(state)
    outputs = state["projector.3.weight"].shape[0]
    encoder = load(Student(backbone, mlp(backbone.feature_dim, backbone.feature_dim, outputs, 2, last_bias=False)), state)
    optimizer = sgd(arrays, encoder)
    alpha, weight = float(arrays["alpha"]), float(arrays["lambda_w"])

    def synthesis(wplus: Tensor) -> Tensor:
        return torch.tanh(wplus.flatten(1) @ arrays["synthesis_matrix"]).view(-1, 3, 8, 8)

    terms, _ = latent_encoding(encoder, synthesis, arrays["wplus"], arrays["x_syn"], arrays["x_real"], alpha, weight)
    shares = {"loss_latent": alpha * weight, "loss_generated": alpha, "loss_real": 1 - alpha}
    for name, expected in (("loss_latent", "latent"), ("loss_generated", "image_syn"), ("loss_real", "image_real")):
        torch.testing.assert_close(terms[name].detach() / shares[name], arrays[expected], rtol=1e-9, atol=0)
    total = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(total.detach(), arrays["total"], rtol=1e-9, atol=0)
    total.backward()
    optimizer.step()
    assert_state(encoder, part(arrays, "sd/1/"))


@pytest.mark.parametrize("case", range(4))
def test_rates_by_epoch(case: int) -> None:
    arrays = part(fixture("lr_schedule"), f"s{case}/")
    epochs = int(arrays["epochs"])
    rates = [float(arrays["init_lr"]) * cosine(epoch, epochs) for epoch in range(epochs)]
    torch.testing.assert_close(torch.tensor(rates, dtype=torch.float64), arrays["lr"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "stem"), [("resnet18cifar", "cifar"), ("resnet18", "imagenet")])
def test_backbones_by_torchvisions_names(name: str, stem: str) -> None:
    import zlib

    arrays = fixture("backbones")
    encoder = ResNet18Encoder(stem=stem).double().eval()
    assert sum(p.numel() for p in encoder.parameters()) == int(arrays[f"{name}/params"])
    shift, state = int(arrays["seed_shift"]), {}
    for key, value in encoder.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        j = torch.arange(value.numel(), dtype=torch.float64)
        b = torch.sin(0.7 * j + zlib.crc32(key.encode()) % 997 + shift).view(value.shape)
        if value.dim() == 4:
            state[key] = 0.6 * (2 / value[0].numel()) ** 0.5 * b
        else:
            state[key] = (1.0 if key.endswith(("running_var", "weight")) else 0.0) + 0.1 * b
    load(encoder, state)
    size = int(arrays["resolution"])
    images = torch.sin(0.013 * torch.arange(2 * 3 * size**2, dtype=torch.float64) + shift).view(2, 3, size, size)
    torch.testing.assert_close(encoder(images).detach(), arrays[f"{name}/features"], rtol=1e-9, atol=1e-12)


def test_sizes_of_the_papers_networks() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(SqueezeModule([512] * 4, 2048, 2048, 3)) == 16_795_648
    assert count(SqueezeModule([512], 2048, 2048, 3)) == 13_643_776
    assert count(mlp(512, 512, 2048, 5, last_bias=False)) == 2_101_248
    assert count(mlp(512, 512, 4096, 2, last_bias=False)) == 2_360_320
    encoder = ResNet18Encoder()
    assert count(Student(encoder, *simsiam_heads(512, 2048, 2, 512))) == 14_582_848


def test_alpha_one_is_the_squeeze_alone_and_the_released_teacher_feels_the_distance_only() -> None:
    arrays = fixture("step_squeeze_span")
    student = student_of(part(arrays, "student/0/"), 7)
    z = torch.randn(12, 7, dtype=torch.float64, requires_grad=True)
    weights = Weights(25.0, 25.0, 1.0)

    def gradient(*, regularise_teacher: bool) -> Tensor:
        terms, _ = squeeze_and_span(
            student, nn.Identity(), arrays["syn/0"], z, [], weights, 0.3, regularise_teacher=regularise_teacher  # type: ignore[arg-type]
        )  # fmt: skip
        assert list(terms) == ["loss_squeeze"]
        return torch.autograd.grad(terms["loss_squeeze"], z)[0]

    found = student(arrays["syn/0"]).detach()
    torch.testing.assert_close(
        gradient(regularise_teacher=False), 25 * 2 * (z.detach() - found) / z.numel(), rtol=1e-8, atol=1e-12
    )
    assert not torch.allclose(gradient(regularise_teacher=True), gradient(regularise_teacher=False))
