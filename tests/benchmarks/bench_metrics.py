"""Time of each metric and its growth, and DCI's two regressors: `python tests/benchmarks/bench_metrics.py`.

Takes about six minutes; most is DCI by its reference regressor, which `--skip-dci` leaves out. Times are CPU
seconds of this one-threaded process, so that other work on the machine counts little, and the least of three
(of DCI, one).
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# NumPy reads these when it is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import scipy
import sklearn

sys.path.insert(0, str(Path(__file__).parents[2]))

from idiff_hf.metrics import METRICS, MetricInputs, check_codes_and_factors, dci, evaluate

REFERENCE = Path(__file__).parents[1] / "reference" / "metrics"
NUM_LATENTS = 10
SHAPES3D_SIZES = (10, 10, 10, 8, 4, 15)
# Two metrics draw from a full grid, and a grid of the sizes above has 480,000 rows.
NEEDS_GRID = {"factor_vae", "beta_vae"}
GRID_SIZES = {1_000: (5, 5, 5, 2, 2, 2), 10_000: (5, 5, 5, 5, 4, 4), 100_000: (10, 10, 10, 10, 5, 2)}
REPEATS = 3
DCI_SCORES = ("disentanglement", "completeness", "informativeness_train", "informativeness_test")


def processor() -> str:
    """Model of the CPU, as the kernel or the platform names it, and its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {max(len(models), 1)} cores seen"


def draw_rows(num_samples: int, grid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors: a noisy latent for each of six factors, and mixtures of four of them."""
    rng = np.random.default_rng(0)
    if grid:
        factors = rng.permutation(np.indices(GRID_SIZES[num_samples]).reshape(6, -1).T)
    else:
        factors = rng.integers(0, SHAPES3D_SIZES, size=(num_samples, 6))
    centred = factors / factors.max(axis=0) - 0.5
    mixed = centred[:, :4] @ rng.normal(size=(4, NUM_LATENTS - 6))
    return np.column_stack([centred, mixed]) + 0.1 * rng.normal(size=(num_samples, NUM_LATENTS)), factors


def least_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of the fastest of a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def seconds_of(name: str, num_samples: int) -> float:
    """CPU seconds of one metric alone, which computes what it shares with others itself."""
    rows = check_codes_and_factors(*draw_rows(num_samples, grid=name in NEEDS_GRID))
    # Inputs keep what metrics share: new ones for each run.
    return least_seconds(lambda: METRICS[name].values(MetricInputs(*rows)))


def print_times() -> None:
    """A line a metric: seconds at each number of rows, and the exponent between the last two."""
    sizes = list(GRID_SIZES)
    print(
        f"\n{NUM_LATENTS} latents, 6 factors; seconds, least of {REPEATS}, and b in time ~ N^b between the last two sizes"
    )
    print(f"{'metric':<14}" + "".join(f"{f'N = {size:,}':>14}" for size in sizes) + f"{'b':>7}")
    for name in METRICS:
        if name == "dci":
            continue
        times = [seconds_of(name, size) for size in sizes]
        growth = math.log(times[-1] / times[-2]) / math.log(sizes[-1] / sizes[-2])
        note = "  (full grids; cost is in the draws, not the rows)" if name in NEEDS_GRID else ""
        print(f"{name:<14}" + "".join(f"{seconds:>14.3f}" for seconds in times) + f"{growth:>7.2f}{note}")
    for grid in (False, True):
        rows = draw_rows(10_000, grid)
        seconds = least_seconds(partial(evaluate, *rows))
        data = "a full grid, FactorVAE and BetaVAE included" if grid else "Shapes3D sizes, drawn at random"
        print(f"all but DCI together at N = 10,000, {data}: {seconds:.2f} s")


def print_dci_times() -> None:
    """Seconds of both regressors, and their ratio."""
    print("\nDCI, seconds by regressor; N = 100,000 left out: the reference would take most of an hour")
    for num_samples in (1_000, 10_000):
        rows = draw_rows(num_samples, grid=False)
        times, results = [], []
        for regressor in ("gradient_boosting", "presorted_boosting"):
            start = time.process_time()
            results.append(dci(*rows, regressor=regressor))
            times.append(time.process_time() - start)
        difference = np.abs(results[0].importance - results[1].importance).max()
        print(
            f"N = {num_samples:>6,}: gradient_boosting {times[0]:7.1f}, presorted_boosting {times[1]:6.1f}, "
            f"ratio {times[0] / times[1]:.1f}; importances differ by at most {difference:.4f}"
        )


def print_dci_differences() -> None:
    """What the fast regressor differs by from the field's own code on the reference cases."""
    cases: dict[str, Any] = json.loads((REFERENCE / "reference.json").read_text())["cases"]
    print("\nDCI by presorted_boosting minus the field's own code (mean of 3 seeds)")
    print(f"{'case':<24}" + "".join(f"{score:>23}" for score in DCI_SCORES))
    largest = np.zeros(len(DCI_SCORES))
    for case, content in cases.items():
        with np.load(REFERENCE / f"{case}.npz") as arrays:
            ours = dci(arrays["codes"], arrays["factors"], regressor="presorted_boosting")
        differences = [getattr(ours, score) - content["values"][f"dci_{score}"] for score in DCI_SCORES]
        largest = np.maximum(largest, np.abs(differences))
        print(f"{case:<24}" + "".join(f"{difference:>+23.4f}" for difference in differences))
    print(f"{'largest':<24}" + "".join(f"{value:>23.4f}" for value in largest))


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore")
    versions = f"numpy {np.__version__}, scipy {scipy.__version__}, scikit-learn {sklearn.__version__}"
    print(f"{processor()}, {platform.platform()}, {versions}, 1 thread", flush=True)
    print_times()
    if "--skip-dci" not in sys.argv:
        print_dci_times()
    print_dci_differences()


if __name__ == "__main__":
    main()
