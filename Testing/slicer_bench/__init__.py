"""A bench for a Slicer scripted module, without the Slicer application. See README.md."""
