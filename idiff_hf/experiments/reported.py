"""The paper's Tables 2 to 9 as numbers."""

from __future__ import annotations

from dataclasses import dataclass

PAPER_METRICS = {
    "mig": "Discrete MIG",
    "mcc_spearman": "Spearman MCC",
    "dci_disentanglement": "Disentanglement",
    "modularity": "Modularity",
}
"""The four rows of each table: the score's name here, and in the paper."""


@dataclass(frozen=True)
class Spread:
    """One score over the runs of a column.

    Attributes:
        mean: Mean over the runs.
        std: Standard deviation; None of a single run.
        max: The greatest; None of a single run in the paper's tables.
    """

    mean: float
    std: float | None = None
    max: float | None = None

    def text(self) -> str:
        """As the paper writes it: `0.19 ± 0.07 / 0.34`, or the number alone of a single run."""
        return (
            f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f} / {self.max:.2f}"
        )


# Table, column (of Table 7: row), then mean, std and max of Discrete MIG, Spearman MCC, Disentanglement, Modularity.
_SWEEPS = """
2 | VAE              | .06 .04 .14 | .20 .13 .49 | .09 .09 .26 | .51 .25 .87
2 | iVAE             | .19 .07 .34 | .19 .09 .39 | .11 .10 .30 | .41 .12 .63
2 | iVAE + DDPM      | .16 .10 .39 | .23 .14 .51 | .13 .11 .39 | .45 .23 .77
3 | VAE              | .32 .14 .47 | .70 .13 .83 | .75 .15 .99 | .97 .02 .99
3 | iVAE             | .42 .14 .68 | .70 .11 .85 | .74 .13 .94 | .94 .04 .98
3 | iVAE + DDPM      | .31 .10 .49 | .68 .08 .78 | .68 .09 .80 | .95 .02 .98
4 | iVAE ResNet-18   | .33 .09 .56 | .71 .09 .87 | .77 .15 1.0 | .95 .02 1.0
4 | iVAE ResNet-50   | .42 .14 .68 | .70 .11 .85 | .74 .13 .94 | .94 .04 .98
5 | Normal Sampling  | .09 .03 .13 | .22 .06 .35 | .11 .10 .26 | .40 .12 .63
5 | Uniform Sampling | .26 .12 .43 | .27 .07 .38 | .15 .09 .29 | .36 .07 .49
6 | CatVAE           | .09 .04 .15 | .42 .07 .59 | .38 .11 .56 | .95 .02 .98
6 | iVAE             | .33 .09 .56 | .71 .09 .87 | .77 .15 1.0 | .95 .02 1.0
7 | kl 0.005         | .18 .09 .27 | .23 .07 .36 | .12 .11 .32 | .33 .17 .65
7 | kl 0.0025        | .11 .14 .29 | .15 .16 .33 | .10 .11 .22 | .28 .21 .59
7 | kl 5e-4          | .18 .10 .28 | .21 .10 .29 | .14 .09 .23 | .37 .14 .58
7 | kl 2.5e-4        | .21 .12 .33 | .21 .08 .32 | .16 .09 .24 | .42 .05 .49
7 | kl 5e-5          | .17 .08 .28 | .28 .09 .38 | .21 .15 .42 | .43 .18 .59
7 | kl 2.5e-5        | .19 .07 .25 | .30 .10 .40 | .20 .02 .23 | .51 .11 .67
8 | iVAE + DDPM      | .31 .04 .35 | .64 .04 .67 | .63 .02 .66 | .92 .04 .95
9 | Best qualitative iVAE+DDPM | .39 | .21 | .21 | .39
9 | Different Seeds (N=5)      | .26 .09 .34 | .11 .08 .21 | .13 .11 .25 | .35 .11 .47
"""


def _read(text: str) -> dict[int, dict[str, dict[str, Spread]]]:
    tables: dict[int, dict[str, dict[str, Spread]]] = {}
    for line in text.strip().splitlines():
        number, column, *cells = (cell.strip() for cell in line.split("|"))
        spreads = [Spread(*(float(value) for value in cell.split())) for cell in cells]
        tables.setdefault(int(number), {})[column] = dict(zip(PAPER_METRICS, spreads, strict=True))
    return tables


REPORTED = _read(_SWEEPS)
"""By table, column (of Table 7: row) and score."""
