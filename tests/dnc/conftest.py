"""Small image folders, made on the spot, and recipes that train on them in seconds."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from otcluster.dnc import load_recipe, load_run, report, train
from tests.dnc.pages import BREAKOUT, TAG
from tests.dnc.pixel_files import write_folders

SMALL = ["backbone.name=test_resnet", "data.image_size=16", "data.batch_size=8", "train.epochs=2", "memory.capacity=64"]


def write_images(root, classes=("cat", "dog", "owl"), n=12, size=16, seed=0):
    """``root/<class>/*.png``: noise around a colour of the class."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for at in range(n):
            pixels = rng.normal(60 + 70 * label, 30, (size, size, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{at:03}.png")


@pytest.fixture
def rendered():
    """For tests that look at pictures which matplotlib draws."""


@pytest.fixture(autouse=True)
def _unrendered(request, monkeypatch):
    """Elsewhere these are put together and left white: to render them is more than half of what a small training takes."""
    if "rendered" not in request.fixturenames:
        white = Image.new("RGB", (1, 1), "white")
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: white.save(path, "png"))


@pytest.fixture
def image_folder(tmp_path):
    root = tmp_path / "images"
    write_images(root / "train")
    write_images(root / "test", n=4, seed=1)
    return root


def small(folder, *changes):
    """The recipe of one epoch on a small image folder."""
    where = [] if folder is None else [f"data.dir={folder}"]
    return load_recipe("image-folder", [*SMALL, "train.epochs=1", *where, *changes])


@pytest.fixture
def folders(tmp_path):
    """Images with labels at every pixel."""
    write_folders(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """``images`` and a finished ``run`` on them; to be copied, not changed."""
    root = tmp_path_factory.mktemp("small")
    write_images(root / "images" / "train")
    write_images(root / "images" / "test", n=4, seed=1)
    train(small(root / "images"), root / "run")
    return root


@pytest.fixture(scope="session")
def small_report(small_run, tmp_path_factory):
    """The page of the report of the small run."""
    return report(load_run(small_run / "run"), tmp_path_factory.mktemp("report") / "report", n_test=4)


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory):
    """The report of a run whose classes and files are called by HTML, and of a user's pictures, one of them broken."""
    root = tmp_path_factory.mktemp("hostile")
    for part, n in (("train", 6), ("test", 3)):
        write_images(root / "images" / part, (TAG, BREAKOUT, "owl"), n=n)
        (root / "images" / part / BREAKOUT / "000.png").rename(root / "images" / part / BREAKOUT / f"{BREAKOUT}.png")
    train(small(root / "images", "data.image_size=64", "head.n_subcentroids=2"), root / "run")
    mine = root / f"{BREAKOUT} ../<svg onload=alert(3)>.png".replace("/", "_")
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(mine)
    broken = root / "<i>broken.png"
    broken.write_bytes(b"none")
    page = report(load_run(root / "run"), root / "report", images=[mine, broken], n_test=3)
    return page, str(mine), str(broken)


def listing(root):
    """Every file below ``root`` with its bytes."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium of the system."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens a page, and gathers whatever goes wrong on it."""
    contexts, wrong = [], []

    def open_page(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        url = path.as_uri()
        page.on("request", lambda request: request.url.startswith(("data:", url)) or wrong.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
