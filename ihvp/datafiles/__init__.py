"""Files of data points as people have them: what they hold, read from headers and footers alone.

``kinds`` tells them apart by their first bytes, ``headers`` lists their columns; one module a format does the reading.
pyarrow is imported where a Parquet or Arrow file is read, and nowhere else.
"""
