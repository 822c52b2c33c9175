"""Where to look: the cord, its centreline and the segments C2-3 … C7-T1."""
