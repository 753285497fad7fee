"""Public sets: MNIST, FashionMNIST, CIFAR-10/100, SVHN, STL10; where torchvision keeps them, or downloaded on request.

torchvision reads CIFAR, and old caches of MNIST, by pickle. Our own readers read those; torchvision only downloads.
"""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

from gankd.data import cifar, idx
from gankd.data.checks import check_part
from gankd.data.dataset import Source
from gankd.errors import UserError

DEFAULT_ROOT = "~/.cache/gankd/data"

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
# name: (archive of the binary version, its md5, folder in it, folder of the Python version, first file but for its `.bin`)
_CIFAR = {
    "cifar10": (
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "data_batch_1",
    ),
    "cifar100": (
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        "cifar-100-python",
        "train",
    ),
}
_MNIST = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def read_vision(name: str, path: str | None, download: bool) -> Source:
    """The set `name` below the folder `path` (default ~/.cache/gankd/data). Downloads only if `download`."""
    root = Path(path or DEFAULT_ROOT).expanduser()
    try:
        if name in _CIFAR:
            return _read_cifar(name, root, download)
        if name in _MNIST:
            return _read_mnist(name, root, download)
        return _read_torchvision(name, root, download)
    except (URLError, TimeoutError, ConnectionError, RuntimeError) as error:
        raise UserError(f"cannot download {name}: {error}; fetch it on a connected machine and set data.path") from None


def _missing(name: str, root: Path, wanted: str) -> UserError:
    what = "is no folder but a file, unpack it first" if root.is_file() else f"wanted: {wanted}"
    return UserError(
        f"data set {name!r} is not in {root} ({what}); set data.download=true to fetch it, or data.path to the folder that has it"
    )


def _read_cifar(name: str, root: Path, download: bool) -> Source:
    archive, md5, binary, python, first = _CIFAR[name]
    for folder, file, read in (  # also where the folder of the files itself is given
        (root / binary, f"{first}.bin", cifar.read_binary),
        (root / python, first, cifar.read_python),
        (root, f"{first}.bin", cifar.read_binary),
        (root, first, cifar.read_python),
    ):
        if (folder / file).is_file():
            return read(folder)
    if not download:
        raise _missing(name, root, f"{binary}/ or {python}/")
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(_CIFAR_URL + archive, str(root), md5=md5)
    return cifar.read_binary(root / binary)


def _read_mnist(name: str, root: Path, download: bool) -> Source:
    usual = root / _MNIST[name] / "raw"
    for folder in (usual, root / "raw", root):  # also where the folder of the files itself is given
        if idx.find(folder, "train-images-idx3-ubyte"):
            return idx.read_idx(folder)
    if not download:
        raise _missing(name, root, f"{_MNIST[name]}/raw/train-images-idx3-ubyte and its companions, plain or .gz")
    _download_mnist(_MNIST[name], usual)
    return idx.read_idx(usual)


def _download_mnist(torchvision_name: str, folder: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    kind = getattr(datasets, torchvision_name)
    for filename, md5 in kind.resources:
        for mirror in kind.mirrors:
            try:
                download_url(mirror + filename, str(folder), filename, md5)
                break
            except URLError:
                if mirror == kind.mirrors[-1]:
                    raise


def _read_torchvision(name: str, root: Path, download: bool) -> Source:
    """SVHN (class k is the digit k) and the labelled parts of STL10."""
    from torchvision import datasets

    kind = {"svhn": datasets.SVHN, "stl10": datasets.STL10}[name]
    if name == "stl10" and root.name == "stl10_binary":  # the folder of the files itself
        root = root.parent
    wanted = {"svhn": "train_32x32.mat and test_32x32.mat", "stl10": "stl10_binary/"}[name]
    try:
        sets = {split: kind(str(root), split=split, download=download) for split in ("train", "test")}
    except (URLError, TimeoutError, ConnectionError):
        raise
    except (RuntimeError, FileNotFoundError):  # "not found or corrupted"
        raise _missing(name, root, wanted) from None
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split())
        raise UserError(f"{name} in {root} cannot be read ({reason}); fetch {wanted} again") from None
    parts = {
        split: check_part(part.data, part.labels, f"{name} {split} images", f"{name} {split} labels")
        for split, part in sets.items()
    }
    return Source.of_parts(parts, tuple(getattr(sets["train"], "classes", ())))
