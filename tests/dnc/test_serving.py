"""Serving: predictions of batches and pictures, heads in place of classifiers, and files that run elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from typer.testing import CliRunner

from otcluster.dnc import Classifier, DNCHead, LinearHead, export, load_run, predict, replace_classifier
from otcluster.dnc.commands import app
from otcluster.dnc.evaluation import evaluate
from otcluster.dnc.exporting import ExportError, check_same


@pytest.fixture(scope="module")
def run(small_run):
    return load_run(small_run / "run")


def images_of(run, n=7):
    split = run.load_test()
    return [split.read(at) for at in range(n)], evaluate(run.model, split.subset(range(n)), run.recipe.data)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_pictures_tensors_and_batches_are_predicted_alike(run, batch_size):
    pictures, whole = images_of(run)
    tensors = [run.model.convert(picture) for picture in pictures]
    for images in (pictures, tensors, torch.stack(tensors)):
        found = run.model.predict(images, batch_size=batch_size)
        assert torch.equal(found.labels, whole.predictions)
        torch.testing.assert_close(found.shares, torch.softmax(whole.logits, dim=1))
        torch.testing.assert_close(found.features, whole.features)
        similarities = run.model.head.similarities(found.features)[torch.arange(7), found.labels]
        assert torch.equal(found.subcentroids, similarities.argmax(dim=1))
    for one in (pictures[2], tensors[2]):
        found = run.model.predict(one)
        assert found.labels.tolist() == whole.predictions[2:3].tolist()
        assert found.shares.shape == (1, 3)


def test_the_command_says_what_the_model_says(run, small_run):
    path = small_run / "images" / "test" / "cat" / "000.png"
    (found,) = predict(run, [path])
    said = run.model.predict(run.load_test().read(0))
    assert found.label == run.model.classes[int(said.labels[0])] == run.classes[int(said.labels[0])]
    assert found.subcentroid == int(said.subcentroids[0]) + 1
    assert found.share == pytest.approx(float(said.shares.max()))


def test_predicting_leaves_modes_statistics_and_gradients_alone():
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model = Classifier(backbone, LinearHead(4, 3)).train()
    backbone[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(5, 1, 2, 2)
    found = model.predict(images)
    assert torch.equal(model.predict(images).shares, found.shares)
    assert found.subcentroids is None
    assert not found.shares.requires_grad
    assert [module.training for module in model.modules()] == [True, True, True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.half().predict(images).shares.dtype == torch.float32


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 2), ValueError, r"images must have shape .* got \(2, 2\)"),
        ([torch.zeros(2, 2)], ValueError, r"must have shape \(channels, height, width\)"),
        ([], TypeError, "at least one"),
        ("cat.png", TypeError, "must be tensors or pictures of PIL, got str"),
        (3, TypeError, "a tensor, a picture of PIL or a sequence"),
        (np.zeros((2, 1, 2, 2)), TypeError, "at least one, got ndarray$"),
        (
            [torch.zeros(1, 2, 2)] * 2 + [torch.zeros(1, 2, 4)],
            ValueError,
            r"of one shape, got \(1, 2, 2\) at 0 and \(1, 2, 4\) at 2",
        ),
    ],
)
def test_what_is_no_image_is_refused(images, error, message):
    model = Classifier(nn.Flatten(), DNCHead(4, n_classes=3))
    with pytest.raises(error, match=message):
        model.predict(images)
    assert model.training


def test_a_model_without_conversion_says_that_it_needs_one(run):
    pictures, _ = images_of(run, 1)
    with pytest.raises(TypeError, match="make it with convert="):
        Classifier(nn.Flatten(), DNCHead(4, n_classes=3)).predict(pictures)
    with pytest.raises(ValueError, match="batch_size must be a positive whole number, got 0"):
        run.model.predict(pictures, batch_size=0)


def small_torchvision(name, **kwargs):
    return getattr(torchvision.models, name)(num_classes=7, **kwargs)


MODELS = {
    "timm resnet": (lambda: timm.create_model("test_resnet", num_classes=7), None),
    "timm vit": (lambda: timm.create_model("test_vit", num_classes=7), None),
    "timm mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=7), 1024),
    "timm without classes": (lambda: timm.create_model("test_resnet", num_classes=0), None),
    "fc": (lambda: small_torchvision("resnet18"), 512),
    "classifier": (lambda: small_torchvision("densenet121"), 1024),
    "last of classifier": (lambda: small_torchvision("mobilenet_v2"), 1280),
    "head": (lambda: small_torchvision("swin_t"), 768),
    "heads": (lambda: small_torchvision("vit_b_32", image_size=64), 768),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_of_any_model_is_replaced(name):
    make, dim = MODELS[name]
    model = make().eval().double()
    dim = model.num_features if dim is None else dim
    kept = {key: value for key, value in model.state_dict().items() if value.shape[:1] != (7,)}
    new = replace_classifier(model, DNCHead(dim, n_classes=3))
    size = model.default_cfg["input_size"][-1] if name.startswith("timm") else 64
    images = torch.rand(2, 3, size, size, dtype=torch.float64)
    found = new.predict(images)
    assert found.features.shape == (2, dim)
    assert found.shares.shape == (2, 3)
    assert found.shares.dtype == found.features.dtype == torch.float64
    assert not new.training
    after = new.backbone.state_dict()
    assert set(kept) >= set(after)
    assert len(after) >= len(kept) - 2
    assert all(torch.equal(value, kept[key]) for key, value in after.items())


def test_a_replaced_head_follows_the_device_and_dtype_of_the_model():
    with torch.device("meta"):
        model = small_torchvision("resnet18").to(torch.bfloat16)
    for head in (DNCHead(512, n_classes=3), LinearHead(512, 3)):
        model.fc = nn.Linear(512, 7, device="meta", dtype=torch.bfloat16)
        new = replace_classifier(model, head)
        assert all(tensor.device.type == "meta" for tensor in (*new.head.parameters(), *new.head.buffers()))
        dtypes = {tensor.dtype for tensor in new.head.parameters()} or {new.head.subcentroids.dtype}
        assert dtypes == ({torch.float32} if isinstance(head, DNCHead) else {torch.bfloat16})
    learns = replace_classifier(timm.create_model("test_resnet").to(torch.bfloat16), DNCHead(96, n_classes=2, memory=16))
    features = learns.features(torch.rand(8, 3, 32, 32, dtype=torch.bfloat16))
    learns.head.observe(features, torch.arange(8) % 2)
    assert learns.head.store.started.all()


def test_features_of_another_length_are_named_and_nothing_is_changed():
    for model in (small_torchvision("resnet18"), timm.create_model("test_resnet")):
        before = str(model)
        with pytest.raises(ValueError, match=r"features of length \d+, which ResNet has, and takes 5: make it with dim="):
            replace_classifier(model, DNCHead(5, n_classes=3))
        assert str(model) == before


def test_a_model_without_a_classifier_is_refused():
    for model in (nn.Flatten(), small_torchvision("squeezenet1_0")):
        with pytest.raises(TypeError, match=r"has no classifier that can be replaced"):
            replace_classifier(model, LinearHead(5, 3))
    with pytest.raises(ValueError, match="auxiliary outputs"):
        replace_classifier(small_torchvision("inception_v3", init_weights=False), LinearHead(2048, 3))


def test_a_program_answers_as_the_model_with_any_number_of_images(run, tmp_path):
    path = tmp_path / "model.pt2"
    metadata = export(run, path)
    extra = {"otcluster.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["otcluster.json"]) == metadata
    assert json.loads(metadata["classes"]) == run.classes
    pictures, _ = images_of(run)
    mean, std = (torch.tensor(json.loads(metadata[name]))[:, None, None] for name in ("mean", "std"))
    raw = torch.stack([torchvision.transforms.functional.pil_to_tensor(picture) for picture in pictures])
    images = (raw / 255 - mean) / std  # of the size asked for
    said = run.model.predict(pictures)
    for n in (1, 7):
        logits, subcentroids = program(images[:n])
        assert torch.equal(logits.argmax(dim=1), said.labels[:n])
        assert torch.equal(subcentroids, said.subcentroids[:n])
        torch.testing.assert_close(torch.softmax(logits, dim=1), said.shares[:n])


def test_an_onnx_file_answers_as_the_model_with_any_number_of_images(small_run, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    result = CliRunner().invoke(app, ["export", str(small_run / "run"), str(path)])
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    run = load_run(small_run / "run")
    assert json.loads(metadata["classes"]) == run.classes
    assert json.loads(metadata["image_size"]) == 16
    pictures, _ = images_of(run)
    images = torch.stack([run.model.convert(picture) for picture in pictures])
    said = run.model.predict(images)
    for n in (1, 7):
        logits, subcentroids = session.run(["logits", "subcentroids"], {"images": images[:n].numpy()})
        torch.testing.assert_close(torch.softmax(torch.from_numpy(logits), dim=1), said.shares[:n], rtol=0, atol=1e-5)
        assert subcentroids.tolist() == said.subcentroids[:n].tolist()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx"]


def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    images = torch.rand(5, 3, 16, 16)
    features = run.model.features(images)
    logits = run.model.head(features).detach()
    own = run.model.head.similarities(features)[torch.arange(5), logits.argmax(dim=1)]
    check_same([logits, own.argmax(dim=1)], run.model, images, tmp_path / "x")
    for said, message in (
        ([logits + 1, own.argmax(dim=1)], "the logits of x differ by 1"),
        ([logits * torch.nan, own.argmax(dim=1)], "the logits of x differ by nan"),
        ([logits, own.argmin(dim=1)], "the sub-centroids of x"),
        ([logits], "other outputs"),
        ([logits[:, :2], own.argmax(dim=1)], "other outputs"),
    ):
        with pytest.raises(ExportError, match=message):
            check_same(said, run.model, images, tmp_path / "x")
    (tmp_path / "kept.pt2").write_bytes(b"before")
    monkeypatch.setattr("otcluster.dnc.exporting._TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"the logits of kept\.pt2 differ"):
        export(run, tmp_path / "kept.pt2")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("kept.pt2", b"before")]


def test_a_linear_head_is_exported_without_subcentroids(run, tmp_path):
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), LinearHead(4, 3))
    export(type(run)(run.files, run.recipe, run.classes, model.eval()), tmp_path / "linear.pt2")
    answer = torch.export.load(tmp_path / "linear.pt2").module()(torch.zeros(3, 3, 16, 16))
    assert len(answer) == 1
    assert answer[0].shape == (3, 3)


def test_what_cannot_be_exported_says_why(run, small_run, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"must end in \.onnx or \.pt2"):
        export(run, tmp_path / "model.bin")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"ONNX needs onnx, onnxscript, onnxruntime: pip install 'otcluster\[onnx\]'"):
        export(run, tmp_path / "model.onnx")
    monkeypatch.undo()

    class Branching(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4] if float(images.sum()) > 0 else images.flatten(1)[:, 4:8]

    class Backbone(nn.Sequential):
        pass

    model = Classifier(Backbone(nn.Conv2d(3, 3, 1), Branching()), DNCHead(4, n_classes=3)).eval()
    with pytest.raises(ExportError, match=r"backbone\.name=test_resnet cannot be exported"):
        export(type(run)(run.files, run.recipe, run.classes, model), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
