"""Speed and memory of training, as Markdown tables: `python tests/benchmarks/bench_training.py --out docs/scaling.md`.

Everything is compared in one run, in turns, on the networks of `configs/quickstart.yaml`: our step with a bare loop, one process with two,
checkpoints with the run that they belong to; then the growth of time and memory with image size, batch and width.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from idiff_hf.arguments import config_from_yaml
from idiff_hf.config import Config
from idiff_hf.provenance import hardware
from idiff_hf.training import TrainingRun
from tests.benchmarks.training_loops import (
    ROOT,
    bare_step,
    images_per_second,
    ivae_stage,
    our_step,
    quickstart,
    ratio,
    side_by_side,
    synchronize,
    unet_stage,
)

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TURNS = 12
"""Of each group of processes."""
BATCHES = (32, 64, 128)
"""Images of a process at each step: the more, the less often gradients are exchanged."""
GROWTH = {
    "as it is": {},
    "64 x 64 pixels": {"image_size": 64},
    "batch of 128": {"batch": 128},
    "U-Net of 64 channels": {"width": 64},
    "U-Net of 192 channels": {"width": 192},
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def against_bare_loops(folder: Path, options: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Our step in each stage beside bare loops; the table, and our images a second by stage."""
    base = quickstart(folder / "both", options.tiny, mixed_precision=options.mixed_precision)
    stages = {"iVAE": ivae_stage(base), "U-Net": unet_stage(base), "both": base}
    runs = {
        name: TrainingRun(replace(config, train=replace(config.train, output_dir=str(folder / name))))
        for name, config in stages.items()
    }
    device, dataset = runs["both"].accelerator.device, runs["both"].dataset
    steps = {f"our {name}": our_step(run) for name, run in runs.items()}
    for name, learns in {
        "bare iVAE": {"ivae": True},
        "bare U-Net": {"unet": True},
        "bare both": {"ivae": True, "unet": True},
    }.items():
        steps[name] = bare_step(base, dataset, device, **learns)
    size = base.train.train_batch_size
    rates = side_by_side(steps, size, device, options.seconds, options.rounds)
    compared = (
        ("iVAE alone", "our iVAE", "bare iVAE", "the iVAE"),
        ("U-Net, iVAE frozen", "our U-Net", "bare U-Net", "the U-Net alone, no encoder"),
        ("both at once", "our both", "bare both", "the iVAE and the U-Net"),
        ("both at once", "our both", "bare U-Net", "the U-Net alone, no iVAE"),
    )
    rows = [
        [
            stage,
            f"{median(rates[ours]):.0f}",
            networks,
            f"{median(rates[bare]):.0f}",
            ratio(rates[ours], rates[bare]),
        ]
        for stage, ours, bare, networks in compared
    ]
    for run in runs.values():
        run.prefetcher.close()
        run.lock.release()
    head = [
        "our step",
        "images/s",
        "bare loop over",
        "images/s",
        f"ours / bare, median of {options.rounds} (range)",
    ]
    return table(head, rows), {name: median(rates[f"our {name}"]) for name in stages}


def checkpoints(folder: Path, options: argparse.Namespace, rates: dict[str, float]) -> str:
    """Seconds of a checkpoint, and its share of the quickstart."""
    run = TrainingRun(quickstart(folder / "checkpoints", options.tiny))
    step, seconds = our_step(run), []
    for number in range(1, 6):
        step()
        synchronize(run.accelerator.device)
        started = time.perf_counter()
        target = run.checkpoint(number)
        seconds.append(time.perf_counter() - started)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 2**20
    run.prefetcher.close()
    run.lock.release()
    config = config_from_yaml((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    total, first = config.train.max_train_steps, config.stop_step(config.optim_ivae)
    batch = config.train.train_batch_size
    training = batch * (first / rates["iVAE"] + (total - first) / rates["U-Net"])
    number = -(-total // config.train.checkpointing_steps)
    saving = number * median(seconds)
    return table(
        ["checkpoint", "size", f"of the quickstart ({number} checkpoints, {total} steps)"],
        [
            [
                f"{median(seconds):.2f} s",
                f"{size:.0f} MiB",
                f"{saving:.1f} s of {training + saving:.0f} s, {saving / (training + saving):.1%}",
            ]
        ],
    )


def two_processes(folder: Path, options: argparse.Namespace) -> str:
    """A process of a core, two that train together, and two that know nothing of each other: what sharing the machine costs alone."""
    if len(os.sched_getaffinity(0)) < 2:
        return "One process against two: not measured, there is one core."
    head = ["one core each, images of a process at a step", "one process, images/s", "two, together"]
    head += [
        "two, each on its own",
        f"together / twice one, median of {TURNS} (range)",
        "each on its own / twice one",
    ]
    rows = []
    for batch in BATCHES[:1] if options.tiny else BATCHES:
        rates = _in_turns(folder / str(batch), batch, options)
        twice = [2.0 * rate for rate in rates["one"]]
        rows.append(
            [
                str(batch),
                *(f"{median(rates[name]):.0f}" for name in ("one", "together", "apart")),
                ratio(rates["together"], twice),
                ratio(rates["apart"], twice),
            ]
        )
    return table(head, rows)


def _in_turns(folder: Path, batch: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of the three groups of processes, at each turn.

    All are started first and then take turns, for the speed of a machine that others share moves by more than what is measured.
    """
    kinds = {"one": [(1, 0)], "together": [(2, 0)], "apart": [(1, 0), (1, 1)]}
    groups = {
        name: [
            process
            for size, core in runs
            for process in _launch(folder / f"{name}{core}", size, core, batch, options)
        ]
        for name, runs in kinds.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for group in groups.values():
        _turn(group, "warm up")
    for number in range(TURNS):
        for name in list(kinds)[:: 1 if number % 2 == 0 else -1]:
            rates[name].append(_turn(groups[name], "go"))
    for group in groups.values():
        for process in group:
            process.communicate("")
    return rates


def _turn(group: list[subprocess.Popen[str]], what: str) -> float:
    """Let the processes of a group work at once; images a second of all of them."""
    for process in group:
        assert process.stdin is not None
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
    total = 0.0
    for process in group:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"error: a process ended with exit code {process.wait()}")
        total += float(line)
    return total


def _launch(
    out: Path, processes: int, core: int, batch: int, options: argparse.Namespace
) -> list[subprocess.Popen[str]]:
    """So many processes that train together, on cores from `core` on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, __file__, "--process_of", str(out)]
    command += [
        f"--processes={processes}",
        f"--core={core}",
        f"--batch={batch}",
        f"--seconds={options.seconds}",
    ]
    common = {**os.environ, **address, "WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    return [
        subprocess.Popen(
            [*command, *(["--tiny"] * options.tiny)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def process_of(out: Path, options: argparse.Namespace) -> None:
    """One process of `two_processes`: at each line of its input it takes steps, and answers with its images a second."""
    core = sorted(os.sched_getaffinity(0))[options.core + int(os.environ["LOCAL_RANK"])]
    os.sched_setaffinity(0, {core})
    run = TrainingRun(quickstart(out, options.tiny, train_batch_size=options.batch))
    seen = (run.accelerator.num_processes, torch.get_num_threads())
    if seen != (options.processes, 1):
        raise SystemExit(
            f"error: expected {options.processes} processes of 1 thread, got {seen[0]} of {seen[1]}"
        )
    size, device = run.config.train.train_batch_size, run.accelerator.device
    step, count = our_step(run), 3
    for line in sys.stdin:
        if line.strip() == "warm up":
            images_per_second(step, count, size, device)
            # as many steps on each process
            rate = torch.tensor(images_per_second(step, count, size, device))
            count = max(2, round(options.seconds * float(run.accelerator.reduce(rate, "mean")) / size))
        print(images_per_second(step, count, size, device), flush=True)
    run.prefetcher.close()
    run.accelerator.end_training()


def growth(options: argparse.Namespace) -> str:
    """Time and memory of a step that trains both, with other sizes, each in a process of its own."""
    found = []
    for change in GROWTH.values():
        command = [sys.executable, __file__, "--measure", json.dumps(change), f"--seconds={options.seconds}"]
        command += [*(["--tiny"] * options.tiny), f"--mixed_precision={options.mixed_precision}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout))
    base = found[0]["images_per_second"]
    rows = [
        [
            name,
            f"{one['parameters'] / 1e6:.1f}",
            f"{one['images_per_second']:.0f}",
            f"{base / one['images_per_second']:.2f}",
            f"{one['peak'] / 2**20:.0f} MiB",
            f"{one['training'] / 2**20:.0f} MiB",
        ]
        for name, one in zip(GROWTH, found, strict=True)
    ]
    head = ["quickstart, both at once", "million parameters", "images/s", "time for an image, relative"]
    return table([*head, "peak memory while training", "above what was built"], rows)


def measure(change: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """One row of `growth`: memory is resident, or that of the accelerator where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        config: Config = quickstart(Path(folder), options.tiny, mixed_precision=options.mixed_precision)
        batch = change.get("batch", config.train.train_batch_size)
        widths = (change.get("width", config.unet.block_out_channels[0]), *config.unet.block_out_channels[1:])
        config = replace(
            config,
            data=replace(config.data, image_size=change.get("image_size", config.data.image_size)),
            train=replace(config.train, train_batch_size=batch),
            unet=replace(config.unet, block_out_channels=widths),
        )
        run = TrainingRun(config)
        device = run.accelerator.device
        before = _peak(device, since=True)
        step = our_step(run)
        images_per_second(step, 2, batch, device)
        count = max(2, round(options.seconds * images_per_second(step, 2, batch, device) / batch))
        rate = images_per_second(step, count, batch, device)
        run.prefetcher.close()
        peak = _peak(device)
        parameters = sum(parameter.numel() for parameter in run.module.parameters())
        return {
            "parameters": parameters,
            "images_per_second": rate,
            "peak": peak,
            "training": peak - before,
        }


def _peak(device: torch.device, since: bool = False) -> int:
    """Bytes at most so far, on the accelerator or resident; with `since`, what is held now, from which peaks count anew."""
    if device.type == "cuda":
        if since:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    if since:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def write(text: str, path: Path) -> None:
    """Put the tables between the two marks of a Markdown file, or into a new one."""
    if path.exists():
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"error: {path} lacks the marks {BEGIN} and {END}, between which tables are put")
        text = f"{before}{BEGIN}\n{text}{END}{after}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="a Markdown file for the tables; without it they are printed"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--tiny", action="store_true", help="the networks of the tests, to try this program")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--process_of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options)))
        return
    if options.process_of is not None:
        process_of(options.process_of, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        loops, rates = against_bare_loops(Path(folder), options)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        machine = hardware(device)
        threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        networks = "the tests' tiny networks" if options.tiny else "the quickstart's networks, batch of 32"
        parts = [
            f"{machine['name']}, {machine['cores']} CPU cores{threads}; torch {torch.__version__}; {networks}, "
            f"precision {'float32' if options.mixed_precision == 'no' else options.mixed_precision}; turns of {options.seconds:g} s.",
            loops,
            checkpoints(Path(folder), options, rates),
            two_processes(Path(folder), options),
            growth(options),
        ]
    text = "\n\n".join(parts) + "\n"
    if options.out is None:
        print(text)
    else:
        write(text, options.out)


if __name__ == "__main__":
    main()
