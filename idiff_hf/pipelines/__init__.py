"""Inference."""

from .pipeline_ivae_diffusion import IVAEDiffusionPipeline, IVAEDiffusionPipelineOutput

__all__ = ["IVAEDiffusionPipeline", "IVAEDiffusionPipelineOutput"]
