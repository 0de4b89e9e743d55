"""Which map of labels belongs to which image: by what their names have in common."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from otcluster.dnc.errors import DataError

_LOSSY = (".jpg", ".jpeg", ".webp")


def partners(images: Path, labels: Path, image_end: str = "", label_end: str = "") -> list[tuple[Path, Path]]:
    """The images below a folder, each with its map of labels below another, in the order of their names.

    An image and its map lie in folders of the same names, and have the same name but for the ends. What begins with a dot is
    passed over, and so are files that are no pictures, and those whose names end otherwise.

    Args:
        images: Folder of the images, and of folders of them.
        labels: The same of their maps.
        image_end: How the names of images end, before the dot.
        label_end: The same of maps.

    Raises:
        DataError: There is no such folder, an image has no map or a map no image, or two have the same name; the message names
            them.
    """
    theirs, ours = _named(images, image_end), _named(labels, label_end)
    if alone := [key for key in theirs if key not in ours]:
        expected = labels / f"{alone[0]}{label_end}.png"
        raise DataError(
            f"{theirs[alone[0]]} has no map of labels: expected {expected} ({len(alone)} of {len(theirs)} have none)"
        )
    if alone := [key for key in ours if key not in theirs]:
        expected = images / f"{alone[0]}{image_end}"
        raise DataError(
            f"{ours[alone[0]]} has no image: expected {expected} with .png, .jpg or another such end ({len(alone)} of "
            f"{len(ours)} have none)"
        )
    for path in ours.values():
        if path.suffix.lower() in _LOSSY:
            raise DataError(f"{path} cannot be a map of labels: {path.suffix} changes the numbers of classes, save it as PNG")
    return [(path, ours[key]) for key, path in theirs.items()]


def _named(folder: Path, end: str) -> dict[str, Path]:
    """The pictures below a folder, by their names without ends."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or path.is_dir() or path.suffix.lower() not in IMG_EXTENSIONS or not path.stem.endswith(end):
            continue
        key = inside.with_name(path.stem.removesuffix(end)).as_posix()
        if key in found:
            raise DataError(f"{found[key]} and {path} have the same name without their ends: rename or remove one")
        found[key] = path
    return found
