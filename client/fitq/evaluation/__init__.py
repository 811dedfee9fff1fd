"""What fitted coefficients say: predictions, bands, residuals, p-values. numpy and Arrow alone."""
