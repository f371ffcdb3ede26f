"""Pictures with columns beside them, wherever a user has them: a folder, arrays, parquet files or the Hugging Face Hub."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from .arrow import open_dataset
from .base import Table
from .folders import IMAGES, METADATA, ArrayTable, FileTable

__all__ = ["METADATA", "PICTURE_SUFFIXES", "Table", "open_table"]

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


def open_table(path: str, split: str, image_column: str) -> Table:
    """Open what a path or a Hub id stands for; something on the disk comes before a Hub id of the same text.

    - A folder of pictures, at any depth. Columns are those of its `metadata.csv`, whose `file_name` is relative to the folder; without that
      file, pictures that all lie in subfolders have the column `label`, the name of the first one.
    - A folder of `.npy` files: `images.npy` `(N, H, W[, C])` and for each column `NAME.npy` `(N,)`; or else one file a picture, as above.
    - A folder of `.parquet` files laid out as on the Hub, or one such file, which is then the split.
    - A Hub id `user/name`. Code that comes with a set is never run.

    Args:
        path: Of these.
        split: Which split of a Hub set or a folder of parquet files.
        image_column: Its column of pictures: files in bytes, or uint8 arrays. In the other folders it is `image`.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: There is nothing of these, no such split or image column, no row, or files and rows that do not match.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        table = _open_folder(path, place, split, image_column)
    elif place.is_file():
        if place.suffix != ".parquet":
            raise ValueError(
                f"{path} is a file; give a folder, a .parquet file or a Hub id such as user/name"
            )
        table = open_dataset(
            path,
            image_column,
            split,
            "parquet",
            data_files={split.partition("[")[0]: glob.escape(str(place))},
        )
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        try:
            table = open_dataset(path, image_column, split, path)
        except ValueError as error:
            raise ValueError(f"{error} (taken for a Hub id, for {Path.cwd()} has no folder {path})") from None
    else:
        raise ValueError(f"{path} is not there, and no Hub id such as user/name; set data.path to either")
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return table


def _open_folder(path: str, folder: Path, split: str, image_column: str) -> Table:
    names = sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder)
        for name in files
    )
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    pictures = [name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    arrays = [name for name in names if name.endswith(".npy")]
    parquet = [name for name in names if name.endswith(".parquet")]
    kinds = [kind for kind in (pictures, arrays, parquet) if kind]
    if not kinds:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}), .npy or .parquet files")
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds {kinds[0][0]} as well as {kinds[1][0]}; give a folder of one kind of file"
        )
    if parquet:
        return open_dataset(path, image_column, split, "parquet", data_dir=glob.escape(str(folder)))
    if image_column != "image":
        raise ValueError(
            f"data.image_column is {image_column!r}; in a folder of pictures or .npy files it is 'image'"
        )
    if IMAGES in arrays:
        return ArrayTable(path, folder, [name for name in arrays if name != IMAGES])
    return FileTable(path, folder, kinds[0])
