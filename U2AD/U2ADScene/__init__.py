"""What the module puts into Slicer's scene, and how it runs: inputs, job, results, display, chart and export."""
