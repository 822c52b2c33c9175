# In Slicer: writes the extension's description, and packs it.
