"""The index of factors that workers keep for each other: which blob holds which sketch or factorisation."""
