"""What is seen, and what is told of it: images and the auxiliary variable u."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import require

GRID_DATASETS = {
    "shapes3d": ("rendered", "file", "hub"),
    "dsprites": ("rendered", "file", "hub"),
    "color_dsprites": ("rendered",),
    "noisy_dsprites": ("rendered",),
    "hue_dsprites": ("rendered",),
    "mpi3d_toy": ("file",),
    "mpi3d_realistic": ("file",),
    "mpi3d_real": ("file",),
    "cars3d": ("file",),
}
"""The sources of each dataset whose images are all combinations of its factors."""


@dataclass(frozen=True)
class DataConfig:
    """Which images are seen.

    Args:
        name: The dataset. `color_dsprites` and `noisy_dsprites` have a random colour or background as a nuisance, `hue_dsprites` a hue
            as a sixth factor; `rotation` is vectors x = R z (Section 3.1); `own` is your own images.
        source: `rendered` is drawn here and nothing is downloaded, `file` reads the original file at `path`, `hub` the parquet files
            of a Hub id or folder at `path`.
        path: With `file` or `hub`: where the images are. With `own`: a folder of pictures (and metadata.csv), of .npy files, of parquet
            files, a parquet file, or a Hub id.
        split: With `hub` or `own`: the split of the Hub set that is read.
        cache_dir: Where decoded images are kept, memory-mapped; null is `idiff_hf` in the cache folder of Hugging Face.
        image_size: Height and width in pixels, even, 16 to 128; `rotation` has no pixels. The paper: 64.
        rotation_dim: With `rotation`: n, the length of z and of x. The paper: 3.
        color: With `own`: `rgb` or `grey`, three channels or one.
        resize: With `own`: resize the shorter side to `image_size` and cut out the centre; `false` refuses images of another size.
        image_column: With `own` or `hub`: the column of the images.
        factor_columns: With `own`: columns that hold factors, for metrics and for an auxiliary variable drawn from them.
        aux_columns: With `own` and `aux.name=observed`: columns that are u. Numbers are standardised, texts become one-hot.
        categorical_columns: Those of `aux_columns` whose numbers are names of categories: they become one-hot too.
        bound_columns: With `own` and `aux.name=bounds`: for each factor `LOWER:UPPER`, two columns of bounds, or one column of an
            ordered bin 0, 1, ...; NaN is no bound.
        streaming: With `own`: read the images as they come, for sets that fit no disk; the first pass is never cached.
        num_workers: Threads that prepare batches while the model trains; 0 prepares each when it is needed. A stream has one at most.
        held_out: Fraction of the factor combinations, or of your own images, kept for evaluation, chosen by `train.seed`. The paper
            holds out none.
    """

    name: Literal[
        "shapes3d",
        "dsprites",
        "color_dsprites",
        "noisy_dsprites",
        "hue_dsprites",
        "mpi3d_toy",
        "mpi3d_realistic",
        "mpi3d_real",
        "cars3d",
        "rotation",
        "own",
    ] = "shapes3d"
    source: Literal["rendered", "file", "hub"] = "rendered"
    path: str | None = None
    split: str = "train"
    cache_dir: str | None = None
    image_size: int = 64
    rotation_dim: int = 3
    color: Literal["rgb", "grey"] = "rgb"
    resize: bool = False
    image_column: str = "image"
    factor_columns: tuple[str, ...] = ()
    aux_columns: tuple[str, ...] = ()
    categorical_columns: tuple[str, ...] = ()
    bound_columns: tuple[str, ...] = ()
    streaming: bool = False
    num_workers: int = 1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        own, size = self.name == "own", self.image_size
        require(
            16 <= size <= 128 and size % 2 == 0,
            f"data.image_size must be even and from 16 to 128, got {size}",
        )
        require(self.rotation_dim >= 2, f"data.rotation_dim must be 2 or more, got {self.rotation_dim}")
        sources = GRID_DATASETS.get(self.name, ("rendered",))
        require(
            self.source in sources,
            f"data.source={self.source} is not there for data.name={self.name}: give {' or '.join(sources)}",
        )
        reads = own or self.source != "rendered"
        require(
            reads == (self.path is not None),
            f"data.path must name what data.name={self.name} with data.source={self.source} reads"
            if reads
            else f"data.path={self.path} has no effect: data.name={self.name} with data.source={self.source} reads nothing",
        )
        readers = {
            "data.name=own": (
                own,
                ("factor_columns", "aux_columns", "bound_columns", "streaming", "resize", "color"),
            ),
            "data.name=own or data.source=hub": (own or self.source == "hub", ("split", "image_column")),
            "data.name=own or data.source=file or hub": (reads, ("cache_dir",)),
            "data.name=rotation": (self.name == "rotation", ("rotation_dim",)),
        }
        for who, (is_read, names) in readers.items():
            unread = [name for name in names if getattr(self, name) != getattr(DataConfig, name)]
            require(
                is_read or not unread,
                f"data.{', data.'.join(unread)} needs {who}, got data.name={self.name}, data.source={self.source}",
            )
        require(self.path != "", "data.path is empty: name a folder, a file or a Hub id")
        twice = next((name for name in self.aux_columns if self.aux_columns.count(name) > 1), None)
        require(twice is None, f"data.aux_columns names {twice!r} more than once; leave one")
        stray = [name for name in self.categorical_columns if name not in self.aux_columns]
        require(
            not stray,
            f"data.categorical_columns must be among data.aux_columns={self.aux_columns}, got {', '.join(stray)}",
        )
        require(self.num_workers >= 0, f"data.num_workers must be 0 or more, got {self.num_workers}")
        require(
            not self.streaming or self.num_workers <= 1,
            f"data.streaming=true is read by one thread: data.num_workers must be 0 or 1, got {self.num_workers}",
        )
        require(0.0 < self.held_out < 1.0, f"data.held_out must lie in (0, 1), got {self.held_out}")


@dataclass(frozen=True)
class AuxConfig:
    """The auxiliary variable u, what the model is told of the factors while it trains.

    Args:
        name: `uniform_posterior` is the paper's (Section 2.4), `interval` tells between which random cuts each factor lies, `normal` is
            the paper's first stage, in which u comes first and the factors from it (Table 5), `observed` is `data.aux_columns`,
            `bounds` is `data.bound_columns`, `factors` are the factors themselves, which makes the iVAE a supervised probe, `none` is the
            VAE baseline.
        label_to_z: `endpoints` maps label k of n to k / (n - 1) - 0.5, `centers` to (k + 0.5) / n - 0.5.
        jitter: With `centers`: shift z uniformly inside its bin, so that its marginal is exactly uniform.
        num_bins: With `uniform_posterior`: 0 draws the variance exactly, 100 is the paper's grid.
        num_cuts: With `interval`: cuts of [-0.5, 0.5]; with more of them u tells more.
        modulate_mean: With `normal`: draw the mean of z too, and tell it. The paper found `false` better (Table 1).
    """

    name: Literal["interval", "uniform_posterior", "normal", "observed", "bounds", "factors", "none"] = (
        "interval"
    )
    label_to_z: Literal["endpoints", "centers"] = "endpoints"
    jitter: bool = False
    num_bins: int = 0
    num_cuts: int = 1
    modulate_mean: bool = False

    def __post_init__(self) -> None:
        require(self.num_bins >= 0, f"aux.num_bins must be 0 (exact) or more, got {self.num_bins}")
        require(
            self.num_bins == 0 or self.name == "uniform_posterior",
            f"aux.num_bins={self.num_bins} needs aux.name=uniform_posterior, got aux.name={self.name}",
        )
        require(self.num_cuts >= 1, f"aux.num_cuts must be 1 or more, got {self.num_cuts}")
        require(
            self.num_cuts == 1 or self.name == "interval",
            f"aux.num_cuts={self.num_cuts} needs aux.name=interval, got aux.name={self.name}",
        )
        require(
            not self.modulate_mean or self.name == "normal",
            f"aux.modulate_mean=true needs aux.name=normal, got aux.name={self.name}",
        )
        require(
            not self.jitter or self.label_to_z == "centers",
            f"aux.jitter=true needs aux.label_to_z=centers, got {self.label_to_z}",
        )
        require(
            self.name != "normal" or self.label_to_z == "endpoints",
            f"aux.name=normal quantises z to aux.label_to_z=endpoints, got {self.label_to_z}",
        )

    @property
    def unsigned(self) -> bool:
        """Whether u states variances alone: how far a factor is from the middle of its range, and not on which side."""
        return self.name in ("uniform_posterior", "normal") and not self.modulate_mean
