"""Publishing a run, or a saved pipeline, on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

from .config import Config
from .folders import MANIFEST, file_behind, verify_files
from .hub import build_card
from .hub_folder import pipeline_in
from .pipelines import IVAEDiffusionPipeline
from .pipelines.hub_commit import (
    CARD,
    RESULTS,
    check_target,
    commit_files,
    create_repository,
    pipeline_files,
    plain_card,
    reference,
    with_manifest,
)
from .processes import process_state
from .results import read_results


def collect(folder: Path, repo_id: str, revision: str | None = None) -> dict[str, Path | bytes]:
    """What `publish` sends, by path in the repository. Nothing is written here, and nothing else in the folder is sent.

    The pipeline lies at the top, so that `from_pretrained("user/name")` finds it, and beside it `config.yaml`, `results.json`, the figures
    that the card shows, the card, rendered anew for this repository, and a manifest of all but the card.

    Args:
        folder: A run's folder, or that of a saved pipeline. Of a pipeline without `results.json` the card says that nothing was measured.
        repo_id: `user/name`, which the card says how to load.
        revision: The branch, likewise.

    Raises:
        ValueError: One line: a pipeline that can't be loaded or is not what its manifest says, results of another one, a figure that is
            missing, or a link that leads out of the folder.
    """
    home = pipeline_in(folder)
    pipeline = IVAEDiffusionPipeline.from_pretrained(home)
    metadata = verify_files(home, ())["metadata"] if (home / MANIFEST).is_file() else {}
    files = pipeline_files(home)
    if not (folder / RESULTS).is_file():
        files[CARD] = plain_card(pipeline.components, repo_id, revision).encode()
        return with_manifest(files, metadata)
    results = read_results(folder)
    card = build_card(results, reference(repo_id, revision))
    steps = results["training"]["steps"]
    if metadata.get("step", steps) != steps:
        raise ValueError(
            f"{folder / RESULTS} is of a model of {steps} steps, {home} has {metadata['step']}: evaluate the run again"
        )
    for name in (RESULTS, *re.findall(r"\((figures/[a-z0-9_]+\.png)\)", card)):
        try:
            files[name] = file_behind(folder, name)
        except FileNotFoundError:
            raise ValueError(
                f"the card shows {name}, which is not in {folder}: evaluate the run again"
            ) from None
    files[CARD] = card.encode()
    return with_manifest(files, metadata)


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Send a run or a pipeline in one commit; the access token is that of HF_TOKEN or of `hf auth login`.

    Args:
        folder: As in `collect`.
        repo_id: `user/name`, created where it is missing.
        private: Whether it is then private; otherwise what its owner's default is.
        revision: A branch, created where it is missing, instead of the main one.
        create_pr: Open a pull request instead.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ValueError: One line, as `collect` and `hub_commit.commit_files` say. The folder is as it was.
    """
    check_target(repo_id, revision, create_pr)
    return commit_files(
        collect(folder, repo_id, revision),
        repo_id,
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        commit_message="Upload a model of idiff_hf",
    )


def open_repository(config: Config) -> None:
    """Before a run that is to be published: see that it can be.

    Raises:
        ValueError: One line: no access token, or no right to create or write the repository.
    """
    hub = config.hub
    if hub.hub_model_id is not None and process_state().is_main_process:
        check_target(hub.hub_model_id)
        create_repository(hub.hub_model_id, hub.hub_private_repo or None)


def publish_run(config: Config) -> None:
    """After a run that is to be published, on the first process: publish it, and print where.

    Raises:
        ValueError: One line, which says how to do it later.
    """
    hub, folder = config.hub, Path(config.train.output_dir)
    if hub.hub_model_id is not None:
        try:
            print(publish(folder, hub.hub_model_id, private=hub.hub_private_repo))
        except ValueError as error:
            raise ValueError(
                f"{error} (the run is complete; `idiff publish {folder} --repo {hub.hub_model_id}` sends it)"
            ) from None
