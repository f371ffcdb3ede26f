"""Where a finished run is published."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .checks import require


@dataclass(frozen=True)
class HubConfig:
    """Publishing on the Hugging Face Hub when a run is done, as `idiff publish` does. The access token is that of HF_TOKEN or a login.

    Args:
        push_to_hub: Publish the run: weights, configuration, results, figures and card in one commit.
        hub_model_id: The repository, `user/name`; it is created before training begins, where it is missing.
        hub_private_repo: Create it as a private one; a repository that is there stays what it is.
    """

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        name = self.hub_model_id
        require(
            not self.push_to_hub or name is not None,
            "hub.push_to_hub=true needs hub.hub_model_id, the repository as user/name",
        )
        require(
            self.push_to_hub or (name is None and not self.hub_private_repo),
            "hub.hub_model_id and hub.hub_private_repo have no effect without hub.push_to_hub=true",
        )
        require(
            name is None or re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None,
            f"hub.hub_model_id must be user/name, got {name}",
        )
