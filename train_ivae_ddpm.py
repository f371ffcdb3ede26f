"""Train an identifiable diffusion model: the algorithm of the paper, top to bottom.

    accelerate launch train_ivae_ddpm.py --config configs/quickstart.yaml --train.seed 1

What a reader of the paper need not see (folders, optimiser, moving average, resume, logging) is in `idiff_hf/training.py`, the loss of
Eq. 2 in `idiff_hf/losses.py`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from accelerate import PartialState

from idiff_hf.arguments import load_config
from idiff_hf.baselines import has_known_prior, has_labels, supervised_probe, supervision_baseline
from idiff_hf.config import Config
from idiff_hf.determinism import deterministic
from idiff_hf.dry_run import dry_run
from idiff_hf.evaluation import evaluate_run
from idiff_hf.guards import out_of_memory
from idiff_hf.hub import write_card
from idiff_hf.interruption import EXIT_CODE, HOW_TO_GO_ON, Interrupted, answered, at_once, exit_with
from idiff_hf.publishing import open_repository, publish_run
from idiff_hf.stages import phase
from idiff_hf.training import TrainingRun


def training_step(run: TrainingRun, step: int) -> None:
    """One optimiser step on one global batch."""
    current = phase(run.config, step)
    for micro in range(run.accumulation):
        # factors are walked in a keyed order, images rendered from them, u ~ p(u | factors)  (Section 2.4)
        batch, random = run.batch(step, micro), run.random(step, micro)
        with run.accumulate(micro):
            # z ~ q(z|x); L = L_DDPM + lambda_rec L_rec + lambda_KL KL(q(z|x) || p(z|u))  (Eq. 2)
            terms = run.objective(batch.image, batch.aux, random, current)
            run.accelerator.backward(terms["loss"] / run.accumulation)
        run.add(terms)
    run.optimizer_step(step, current)


def train(config: Config) -> Path:
    """Train to the end of `config`, from its checkpoint where there is one, and export; returns the `pipeline/` folder."""
    with deterministic(config.train.deterministic), out_of_memory(config):
        run = TrainingRun(config)
        with closing(run.steps()) as steps:
            for step in steps:
                training_step(run, step)
                run.log(step)
                run.save(step)
        return run.finish()


def main(argv: Sequence[str] | None = None) -> int:
    """Train the model and what it is compared with, measure them, write the card; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    config, only_try = load_config(argv)
    try:
        if only_try:
            dry_run(config, training_step)
            return 0
        open_repository(config)
        with answered():
            train(config)
            if config.eval.supervision_baseline and has_known_prior(config):
                train(supervision_baseline(config))
            if config.eval.supervised_probe and has_labels(config):
                train(supervised_probe(config))
            output_dir = Path(config.train.output_dir)
            with at_once(f"training is done and saved, {HOW_TO_GO_ON}"):
                if evaluate_run(output_dir):
                    write_card(output_dir)
                    publish_run(config)
    except Interrupted as stop:
        if PartialState().is_main_process:
            print(stop, file=sys.stderr)
        return EXIT_CODE
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    exit_with(main())
