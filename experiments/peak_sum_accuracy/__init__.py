"""The error of the FFT peak sum against the dense one, values and gradients."""
