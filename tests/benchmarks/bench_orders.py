"""Orders of convergence of our solvers on Gaussian data, of which all is known: `python tests/benchmarks/bench_orders.py`.

Laws after n steps come by recursion, without sampling (`tests/schedulers/gaussian.py`), so that the figures are the same on any machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from idiff_hf.schedulers import VPSDEScheduler
from tests.schedulers.gaussian import affine_steps, exact_law, law_at, slope, strong_error

STEPS = (40, 80, 160, 320, 640)
SOLVERS = (("Euler-Maruyama", "euler_maruyama"), ("probability-flow ODE, Heun", "heun_ode"))


def main() -> None:
    """Print errors at doubling numbers of steps, and the order fitted to them."""
    print(f"| solver | grid | error | {' | '.join(f'{n} steps' for n in STEPS)} | order |")
    print("|---|---|---|" + "---|" * (len(STEPS) + 1))
    exact = exact_law(VPSDEScheduler(), VPSDEScheduler().config.sampling_eps)[1]
    for name, solver in SOLVERS:
        for grid in ("uniform", "quadratic"):
            steps = {
                n: affine_steps(VPSDEScheduler(solver=solver, time_grid=grid, final_denoise=False), n)
                for n in STEPS
            }
            errors = {
                "variance (weak)": [
                    abs(law_at(VPSDEScheduler(), rows, 1)[-1, 2] - exact) for rows in steps.values()
                ]
            }
            if solver == "euler_maruyama":
                errors["path (strong)"] = [strong_error(rows)[0] for rows in steps.values()]
            for kind, found in errors.items():
                cells = " | ".join(f"{error:.1e}" for error in found)
                print(f"| {name} | {grid} | {kind} | {cells} | {slope(found):.2f} |")


if __name__ == "__main__":
    main()
