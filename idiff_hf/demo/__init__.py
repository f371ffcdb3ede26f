"""The latent explorer: `latents` and `explorer` compute, `html` and `page` are its page, `app` serves it, `space` writes it as a Space.

Only `page` and `app` need gradio.
"""
