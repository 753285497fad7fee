"""Data sets: uint8 images (N, C, H, W) and labels, with train, validation and test parts and a fingerprint.

`load(DataConfig(...))` reads one; `gankd.data.augment.Resident` draws training batches from a part. Only numpy is
imported here; torch, torchvision, scikit-learn, h5py and Pillow are imported where they are used.
"""

from gankd.data.catalogue import load, read_config
from gankd.data.config import NAMES, DataConfig
from gankd.data.dataset import DataSet, Split
from gankd.data.hdf5 import write_hdf5

__all__ = ["NAMES", "DataConfig", "DataSet", "Split", "load", "read_config", "write_hdf5"]
