"""Many processes: launch files, one run on any number of them, and evaluation that they share."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from idiff_hf.arguments import config_to_yaml
from idiff_hf.config import Config, TrainConfig
from idiff_hf.evaluation import evaluate_run
from idiff_hf.processes import map_batches
from tests.faults.runs import losses
from tests.tiny import joint, tiny_config
from tests.torchrun import CPU, ROOT, free_port, torchrun
from train_ivae_ddpm import main, train

LAUNCH = ROOT / "configs" / "accelerate"


def by_torchrun(program: Sequence[str], processes: int) -> str:
    """Run a program on so many processes of a CPU; returns what they print."""
    done = torchrun(processes, *program)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def processes(program: Sequence[str], number: int) -> list[tuple[int, str]]:
    """Run it as `srun` does, nothing but a variable for each process says who it is; returns how each ended, and what it printed."""
    port, started = free_port(), []
    for rank in range(number):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number}
        variables = {name: str(value) for name, value in place.items()}
        environment = {**CPU, **variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                [sys.executable, *program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    printed = [process.communicate(timeout=280)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, printed, strict=True)]


def as_slurm(program: Sequence[str], number: int) -> None:
    """Run it so to its end, on each process a good one."""
    assert [code for code, _ in processes(program, number)] == [0] * number


# Launch files


def launched(name: str, *flags: str) -> tuple[ClusterConfig, Any]:
    """A file as Accelerate reads it, and what `accelerate launch` makes of it."""
    path = str(LAUNCH / f"{name}.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", path, *flags, "train_ivae_ddpm.py"])
    return load_config_from_file(path), _validate_launch_command(arguments)[0]


@pytest.mark.parametrize(
    ("name", "kind", "processes", "on_cpu"),
    [("cpu", "NO", 1, True), ("gpu", "NO", 1, False), ("gpus", "MULTI_GPU", 8, False)],
)
def test_launch_files_are_read_by_accelerate(name: str, kind: str, processes: int, on_cpu: bool) -> None:
    config, arguments = launched(name)
    assert config.distributed_type == DistributedType(kind)
    assert (config.num_processes, config.num_machines, config.use_cpu) == (processes, 1, on_cpu)
    assert (arguments.num_processes, arguments.multi_gpu) == (processes, kind == "MULTI_GPU")
    assert not arguments.use_fsdp and not arguments.use_deepspeed


def test_the_file_of_several_machines_takes_its_rank_from_the_command_line() -> None:
    config, arguments = launched("nodes", "--machine_rank", "1", "--main_process_ip", "node0")
    assert (config.distributed_type, config.num_processes) == (DistributedType.MULTI_GPU, 16)
    prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.node_rank, arguments.nproc_per_node) == ("2", 1, "8")
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "node0:29500")


def test_the_launch_files_are_these() -> None:
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == {"cpu", "gpu", "gpus", "nodes"}


def test_tests_that_the_docs_name_exist() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)\.(test_\w+)`", text)
    assert len(named) >= 8
    for module, test in named:
        (path,) = (ROOT / "tests").rglob(f"{module}.py")
        assert f"def {test}(" in path.read_text(encoding="utf-8"), test


# Shards


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ],
)
def test_a_launch_in_shards_is_refused_in_one_line(
    variable: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, "true")
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(tiny_config(tmp_path / "run")))
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"error: launched with {name}, which cuts the model into pieces: every process here holds all of it; "
        "launch with distributed_type: MULTI_GPU, as in configs/accelerate/gpus.yaml\n"
    )
    assert not (tmp_path / "run").exists()


def test_accelerate_asks_for_fsdp_by_that_variable() -> None:
    flags = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2", "--num_machines", "1"]
    arguments = launch_command_parser().parse_args([*flags, "train_ivae_ddpm.py"])
    assert prepare_multi_gpu_env(_validate_launch_command(arguments)[0])["ACCELERATE_USE_FSDP"] == "true"


SHARDED = """
import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from idiff_hf.stages import phase
from tests.tiny import joint, objective_and_inputs, tiny_config

plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
assert accelerator.num_processes == 2
accelerator.print("accelerate:", accelerator.distributed_type.value)
config = joint(tiny_config("unused"))
found = {}
for kind in ("whole", "sharded"):
    objective, inputs = objective_and_inputs(config)
    if kind == "sharded":
        fully_shard(objective)
        assert all(isinstance(p, DTensor) for p in objective.parameters())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-4)
    found[kind] = []
    for step in range(4):
        loss = objective(*inputs, phase(config, step))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found[kind].append(float(loss))
difference = max(abs(a - b) / abs(a) for a, b in zip(*found.values()))
if accelerator.is_main_process:
    print("difference:", difference)
accelerator.end_training()
"""


@pytest.mark.slow
def test_fsdp2_trains_the_objective_alike_and_accelerate_leaves_it_out_on_a_cpu(tmp_path: Path) -> None:
    """As far as two CPU processes show: the networks and AdamW work in shards; what surrounds them does not."""
    (tmp_path / "sharded.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SHARDED}")
    printed = by_torchrun([str(tmp_path / "sharded.py")], 2)
    assert "accelerate: MULTI_CPU" in printed  # FSDP was asked for, and nothing was said
    assert float(printed.split("difference:")[1].split()[0]) < 1e-6


# The end of a program

ENDING = """
import atexit, sys
from pathlib import Path
import torch.distributed
from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_accelerator
from idiff_hf.processes import process_state

# what is registered first comes last
atexit.register(lambda: print("left:", joined and not torch.distributed.is_initialized()))
if sys.argv[1] == "state":
    state = process_state()
else:
    state = build_accelerator(config_from_yaml(Path(sys.argv[1]).read_text())).state
joined = torch.distributed.is_initialized() and state.num_processes == 2
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("state", 2), ("accelerator", 0)])
def test_a_program_leaves_the_group_of_processes_however_it_ends(
    tmp_path: Path, kind: str, code: int
) -> None:
    """A process that did not once ended with SIGABRT, in its last step, when all was done."""
    (tmp_path / "config.yaml").write_text(config_to_yaml(tiny_config(tmp_path / "run")))
    (tmp_path / "ending.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{ENDING}")
    begin = "state" if kind == "state" else str(tmp_path / "config.yaml")
    ended = processes([str(tmp_path / "ending.py"), begin, str(code)], 2)
    assert ended == [(code, "left: True\n")] * 2


# One run on any number of processes


@pytest.mark.parametrize(
    ("processes", "size", "total", "micro"),
    [(1, 8, 64, 8), (2, 8, 64, 4), (4, 16, 64, 1), (8, 8, 64, 1), (1, 32, None, 3), (8, 32, None, 3)],
)
def test_micro_batches_make_the_global_batch(
    processes: int, size: int, total: int | None, micro: int
) -> None:
    accumulation = {} if total else {"gradient_accumulation_steps": 3}
    config = TrainConfig(train_batch_size=size, global_batch_size=total, **accumulation)
    assert config.micro_batches(processes) == micro


def test_global_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be a positive multiple of 32, what .*=32 makes on 1 process\(es\), got 48"
    ):
        TrainConfig(global_batch_size=48)
    with pytest.raises(ValueError, match=r"decides how many micro-batches there are: leave .*steps=2 out"):
        TrainConfig(global_batch_size=64, gradient_accumulation_steps=2)
    with pytest.raises(
        ValueError, match=r"multiple of 96, .* makes on 3 process\(es\), got 64: change either"
    ):
        TrainConfig(global_batch_size=64).micro_batches(3)


def elsewhere(config: Config, folder: Path, **changes: Any) -> Config:
    return replace(config, train=replace(config.train, output_dir=str(folder), **changes))


def test_a_resume_with_another_global_batch_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(tmp_path / "one", max_train_steps=5)
    train(config)
    first = str(tmp_path / "one" / "checkpoints" / "step-00000004")
    train(elsewhere(config, tmp_path / "same", resume_from_checkpoint=first))
    assert "images a step" not in caplog.text
    train(elsewhere(config, tmp_path / "other", resume_from_checkpoint=first, global_batch_size=32))
    assert (
        f"resumed with 32 images a step, {first} was made with 16, so that some images come twice"
        in caplog.text
    )
    assert "train.global_batch_size=16 keeps them on any number of processes" in caplog.text


@pytest.mark.slow
def test_processes_come_and_go_at_one_global_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One config throughout, 32 images a step in micro-batches of 8: 1 process, 2 without a launcher, and 2 -> 1 half-way."""
    one = joint(tiny_config(tmp_path / "one", max_train_steps=6, train_batch_size=8, global_batch_size=32))
    # the paper's rate: Adam's first steps are signs of gradients, and at a large one they magnify rounding beyond any comparison
    one = replace(
        one,
        optim_ivae=replace(one.optim_ivae, learning_rate=2e-4),
        optim_unet=replace(one.optim_unet, learning_rate=2e-4),
    )
    train(one)
    expected = losses(tmp_path / "one")
    (tmp_path / "two.yaml").write_text(config_to_yaml(elsewhere(one, tmp_path / "two")))
    as_slurm(["train_ivae_ddpm.py", "--config", str(tmp_path / "two.yaml")], 2)
    record = json.loads((tmp_path / "two" / "training.json").read_text())
    assert (record["num_processes"], record["global_batch_size"]) == (2, 32)
    half = tmp_path / "two" / "checkpoints" / "step-00000003"
    train(elsewhere(one, tmp_path / "back", resume_from_checkpoint=str(half)))
    assert "images a step" not in caplog.text
    for name, rest in (("two", expected), ("back", expected[3:])):
        for line, wanted in zip(losses(tmp_path / name), rest, strict=True):
            # the KL begins at 80 nats, where float32 itself resolves 8e-6
            assert line == pytest.approx(wanted, abs=1e-6, rel=1e-6), name


# Evaluation


def test_batches_keep_their_order() -> None:
    sums = map_batches(lambda rows: int(rows.sum()), torch.arange(10), 4, shared=True)
    assert sums == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9]


SHARED = """
import json, sys
from pathlib import Path
from idiff_hf import drawing, readback
from idiff_hf.evaluation import evaluate_run
from idiff_hf.processes import process_state

done = {"encode": 0, "draw": 0, "search": 0}
def counted(module, kind):
    def wrapper(function, rows, *arguments, **options):
        def count(part):
            done[kind if kind == "draw" or len(rows) < 480000 else "search"] += len(part)
            return function(part)
        return original(count, rows, *arguments, **options)
    original = module.map_batches
    module.map_batches = wrapper
counted(readback, "encode")
counted(drawing, "draw")
state = process_state()
assert state.num_processes == 2
path = evaluate_run(Path(sys.argv[1]))
assert (path is not None) == state.is_main_process
print("done", json.dumps(done))
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_evaluation_and_find_the_same(tmp_path: Path) -> None:
    """Every figure is equal to the last bit, and nothing is encoded, drawn or searched twice."""
    config = tiny_config(tmp_path / "run")
    config = replace(config, eval=replace(config.eval, num_samples=1200, num_generated=70))
    train(config)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert evaluate_run(tmp_path / "run") is not None
    finally:
        torch.set_num_threads(before)
    results, figures = tmp_path / "run" / "results.json", tmp_path / "run" / "figures"
    alone = results.read_text(), {path.name: path.read_bytes() for path in figures.iterdir()}
    results.unlink()
    (tmp_path / "shared.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SHARED}")
    printed = by_torchrun([str(tmp_path / "shared.py"), str(tmp_path / "run")], 2)
    assert (results.read_text(), {path.name: path.read_bytes() for path in figures.iterdir()}) == alone
    shares = [json.loads(line) for line in re.findall(r"done (\{.*?\})", printed)]
    assert sorted(share["encode"] for share in shares) == [200, 1000]  # batches of 500: two and a rest
    assert sorted(share["draw"] for share in shares) == [6, 64]  # batches of 32: two and a rest
    assert sorted(share["search"] for share in shares) == [240000, 240000]
