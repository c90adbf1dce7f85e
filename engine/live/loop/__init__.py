"""The live loop: frames in, images out, an account of every frame."""
