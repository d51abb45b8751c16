"""The neural stage: codes of the head model fitted to depth under a diffusion prior, from the linear fit on."""
