"""The latent explorer: `latents` and `explorer` compute, `html` and `app` are its page, `space` writes it as a Space.

Only `app` needs gradio.
"""
