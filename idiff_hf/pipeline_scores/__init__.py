"""What a saved pipeline is measured by on a dataset: its scores, its U-Net's sensitivity, and the tables of `idiff bench`."""
